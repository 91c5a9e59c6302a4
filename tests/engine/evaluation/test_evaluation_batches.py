"""Batches of an evaluation: the same answers, forwards counted per row, time counted once per batch."""

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.evaluation import answering
from nbdiff_engine.evaluation.answering import decode_batch
from nbdiff_engine.evaluation.run import batches_of, evaluate
from nbdiff_engine.evaluation.table import table
from nbdiff_engine.tasks import Problem, held_out
from tests.conftest import GOLDEN

PROBLEMS = held_out("knowledge", 5) + held_out("math", 3)
COUNTED = ("n", "judged", "accuracy", "accuracy_interval", "tokens_per_forward", "mean_output_tokens", "drafted")


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load(GOLDEN / "tiny-block-diffusion", dtype="float32")


@pytest.mark.parametrize("batch_size", [pytest.param(2, marks=pytest.mark.slow), 3, 64])
def test_in_float32_batches_give_the_outputs_of_prompts_one_by_one(model, monkeypatch, batch_size):
    rows = []

    def recorded(model, prompts, settings):
        found = yield from decode_batch(model, prompts, settings)
        for prompt, out in zip(prompts, found):
            rows[-1][settings.strategy, tuple(prompt)] = out.token_ids
        return found

    monkeypatch.setattr(answering, "decode_batch", recorded)
    reports = []
    for size in (1, batch_size):
        rows.append({})
        reports.append(evaluate([model], PROBLEMS, max_new_tokens=40, batch_size=size))
    assert len(rows[0]) == 3 * len(PROBLEMS)
    assert rows[1] == rows[0]
    for one, other in zip(reports[0].models[0].results, reports[1].models[0].results, strict=True):
        for domain in ("knowledge", "math"):
            assert [getattr(other.domains[domain], name) for name in COUNTED] == [
                getattr(one.domains[domain], name) for name in COUNTED
            ]
    assert [each.identical for each in reports[1].comparisons] == [each.identical for each in reports[0].comparisons]


def test_a_batch_has_one_domain_and_the_longest_prompts_come_first():
    problems = [Problem(domain, "", "") for domain in "aababba"]
    prompts = [[1] * length for length in (3, 9, 5, 1, 8, 2, 7)]
    batches = batches_of(problems, prompts, 2)
    assert batches == [[1, 6], [4, 2], [0, 3], [5]]
    assert batches_of(problems, prompts, 1) == [[index] for index in range(7)]
    assert sorted(index for batch in batches_of(problems, prompts, 3) for index in batch) == list(range(7))


def test_the_report_defines_tokens_per_second(model):
    done = evaluate([model], PROBLEMS[:3], max_new_tokens=4, batch_size=3)
    assert done.to_json()["batch_size"] == 3
    assert "wall time of the batch" in done.to_json()["definitions"]["tokens_per_second"]
    assert table(done).startswith("3 prompts (3 knowledge), 3 at a time")
    assert "wall time of the batch" in table(done)
    alone = evaluate([model], PROBLEMS[:1], max_new_tokens=4)
    assert "one prompt at a time" in alone.to_json()["definitions"]["tokens_per_second"]
    assert "wall time of the batch" not in table(alone)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_that_does_not_fit_the_memory_gives_one_sentence(model, monkeypatch, error):
    def out_of_memory(*args, **settings):
        raise error

    monkeypatch.setattr(answering, "prepare", out_of_memory)
    with pytest.raises(nb.SettingError, match=r"too small for 4 prompts side by side .* take a smaller batch size"):
        evaluate([model], PROBLEMS[:4], batch_size=4)


def test_other_runtime_errors_are_raised_unchanged(model, monkeypatch):
    def broken(*args, **settings):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(answering, "prepare", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate([model], PROBLEMS[:1])


@pytest.mark.parametrize("size", [0, -1, 1025])
def test_a_bad_batch_size_gives_one_sentence(model, size):
    with pytest.raises(nb.SettingError, match=f"batch_size is {size}; it must be from 1 to 1024"):
        evaluate([model], PROBLEMS[:1], batch_size=size)


def test_the_error_for_a_bad_prompt_names_the_problem(model):
    problems = [PROBLEMS[0], Problem("own", "long " * 2000, "x", {}, "contains", "novel")]
    with pytest.raises(nb.PromptError, match="Problem 2, novel: The prompt is"):
        evaluate([model], problems)
