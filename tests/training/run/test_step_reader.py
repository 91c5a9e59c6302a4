"""The batches of a step depend only on the recipe, the step and the cursor."""

from dataclasses import fields

import pytest
import torch

from tests.training.runs import small_base, small_data, small_recipe
from training.data.packing import Cursor
from training.objective.noising import Batch
from training.planning.preview import Preview
from training.planning.without_weights import open_without_weights
from training.run.step_reader import StepReader, noised, packer_of, seed_of


@pytest.fixture
def recipe(tmp_path):
    return small_recipe(
        small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"), optimisation={"accumulation": 2}
    )


def reader(recipe, processes: int = 1, process: int = 0) -> StepReader:
    model, source, *_ = open_without_weights(recipe)
    return StepReader(recipe, model, source, None, processes, multiple=1, process=process)


def same(one: Batch, other: Batch) -> bool:
    tokens = all(
        torch.equal(getattr(one.tokens, each.name), getattr(other.tokens, each.name)) for each in fields(one.tokens)
    )
    return tokens and torch.equal(one.ids, other.ids) and torch.equal(one.mdm_targets, other.mdm_targets)


def test_a_prefetched_step_equals_the_step_of_a_resumed_run(recipe):
    with reader(recipe) as run:
        first = run.take(0, Cursor())
        second = run.take(1, first.cursor)
    with reader(recipe) as resumed:
        again = resumed.take(1, first.cursor)
    assert (first.block_size, second.block_size) == (1, 2)
    assert again.cursor == second.cursor
    assert len(again.batches) == 2
    assert all(same(one, other) for one, other in zip(again.batches, second.batches, strict=True))


def test_two_processes_read_the_step_of_one_with_twice_the_accumulation(recipe):
    twice = recipe.model_copy(update={"optimisation": recipe.optimisation.model_copy(update={"accumulation": 4})})
    with reader(recipe, 2, 0) as first, reader(recipe, 2, 1) as second, reader(twice) as one:
        assert first.rows_per_step == second.rows_per_step == one.rows_per_step == 8
        cursor = first.take(0, Cursor()).cursor
        steps = [each.take(1, cursor) for each in (first, second, one)]
    assert [len(step.batches) for step in steps] == [2, 2, 4]  # each noises its own
    for process, step in enumerate(steps[:2]):
        assert all(same(a, b) for a, b in zip(step.batches, steps[2].batches[process::2], strict=True))
    assert len({(step.target_count, step.tokens, step.cursor) for step in steps}) == 1
    assert steps[2].target_count == sum(batch.target_count for batch in steps[2].batches)


def test_complementary_masks_count_the_targets_of_each_row_twice(recipe):
    objective = recipe.objective.model_copy(update={"complementary_masks": True})
    with reader(recipe.model_copy(update={"objective": objective})) as run:
        step = run.take(0, Cursor())
    assert step.target_count == sum(batch.target_count for batch in step.batches)


def test_a_preview_packs_and_noises_as_the_run_does(recipe):
    shown = Preview.of(recipe, 4)
    with reader(recipe) as run:
        assert shown.noising == run.noising(4)
        assert shown.packer.length == run.packer.length
        assert shown.packer.largest_block == run.packer.largest_block == 8


def test_noise_depends_only_on_the_seed(recipe):
    model, source, *_ = open_without_weights(recipe)
    packed, _ = packer_of(recipe, model, source).batch(Cursor(), 2)
    noising = Preview.of(recipe, 8).noising
    one, again, other = (noised(packed, noising, recipe, seed_of(recipe, "noise", step, 0)) for step in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)
    assert seed_of(recipe, "noise", 1, 11) != seed_of(recipe, "noise", 11, 1)
