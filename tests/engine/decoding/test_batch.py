"""Rows that join and leave a running batch get the tokens that they get alone, and no row waits for a long prompt."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.batch import RunningBatch
from nbdiff_engine.decoding.prefix_cache import PrefixCache
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.model.passes import SHARED_WIDTH
from nbdiff_engine.token_choice.sampling import Sampler
from nbdiff_engine.trace.events import Finish, Prefill
from tests.draft_adapters import tiny_drafter
from tests.engine.answers import ids
from tests.tiny import FAST_DLLM, prompt_ids, tiny_model

# (prompt tokens, settings, the tick at which the row joins, the tick at which it is cancelled)
ROWS = [
    (31, {"strategy": "block_diffusion", "block_size": 5, "threshold": 0.5}, 0, None),
    (150, {"strategy": "ar", "temperature": 1.0, "seed": 3}, 0, None),
    (5, {"strategy": "self_speculative", "block_size": 6}, 1, 4),
    (1, {"strategy": "ar", "repetition_penalty": 1.3, "trace": False}, 2, None),
    (140, {"strategy": "self_speculative", "temperature": 0.7, "top_p": 0.9, "seed": 11}, 3, None),
    (130, {"strategy": "ar"}, 3, 5),
    (12, {"strategy": "block_diffusion", "unmasking": "entropy", "logprobs": 2}, 6, None),
    (70, {"strategy": "block_diffusion", "temperature": 1.0, "seed": 5, "skip_after_eos": True}, 9, None),
    (3, {"strategy": "ar", "temperature": 1.0, "seed": 3}, 40, None),
]


def row_of(model: nb.BlockModel, prompt: list[int], **settings) -> AnswerRow:
    job = nb.prepare(model, prompt, **settings)
    return AnswerRow(0, job.prompts[0], job.plan)


def run(batch: RunningBatch, row: AnswerRow) -> list:
    """The events of a row that is the only one of a batch."""
    batch.join(row)
    while batch.rows:
        batch.tick()
    return row.drain()


@pytest.mark.parametrize("prefill_tokens", [None, 64])
@pytest.mark.parametrize("kind", ["llama", "llama fused", "gemma", "drafter"])
def test_rows_that_join_and_leave_get_the_tokens_that_they_get_alone(kind, prefill_tokens):
    family, *fused = kind.split()
    model = tiny_drafter("llama", noise="uniform")[1] if kind == "drafter" else tiny_model(family, fused=bool(fused))
    rows = []
    for length, settings, joins, leaves in ROWS:
        if model.draft is not None and settings["strategy"] == "block_diffusion":
            settings = {"strategy": "self_speculative", "draft_layout": "behind_last", "seed": length}
        rows.append((row_of(model, prompt_ids(length, length), max_new_tokens=30, **settings), settings, joins, leaves))
    batch = RunningBatch(model, prefill_tokens=prefill_tokens)
    for tick in range(300):
        for row, _, joins, leaves in rows:
            if joins == tick:
                batch.join(row)
            if leaves == tick:
                batch.leave(row)
        if batch.rows:
            batch.tick()
    for row, settings, _, leaves in rows:
        alone = ids(model, row.prompt, max_new_tokens=30, **settings)
        if leaves is None:
            assert row.drain()[-1].token_ids == tuple(alone)
        else:
            assert row.output == alone[: len(row.output)]
            assert not any(isinstance(event, Finish) for event in row.drain())


def test_rows_of_different_seeds_are_sampled_at_once_and_as_alone(llama, monkeypatch):
    settings = {"strategy": "ar", "temperature": 1.2, "top_p": 0.9, "max_new_tokens": 8, "ignore_eos": True}
    alone = [ids(llama, prompt_ids(5), seed=seed, **settings) for seed in (1, 2, 3)]
    sampled = []
    predict = Sampler.predict

    def counted(sampler, logits, *arguments):
        sampled.append(len(logits))
        return predict(sampler, logits, *arguments)

    monkeypatch.setattr(Sampler, "predict", counted)
    rows = [row_of(llama, prompt_ids(5), seed=seed, **settings) for seed in (1, 2, 3)]
    batch = RunningBatch(llama)
    for row in rows:
        batch.join(row)
    while batch.rows:
        batch.tick()
    assert [row.output for row in rows] == alone
    assert len({tuple(each) for each in alone}) == 3
    assert set(sampled) == {3}


def test_a_row_that_decodes_gets_a_token_in_every_tick_while_others_read(llama):
    batch = RunningBatch(llama, prefill_tokens=SHARED_WIDTH)
    decoding = row_of(llama, prompt_ids(4), strategy="ar", max_new_tokens=40)
    batch.join(decoding)
    batch.tick()
    long = [row_of(llama, prompt_ids(length), strategy="ar", max_new_tokens=5) for length in (200, 190)]
    for row in long:
        batch.join(row)
    for tokens in range(1, 9):
        assert len(decoding.output) == tokens
        batch.tick()
    reads = [[each.prompt_tokens for each in row.drain() if isinstance(each, Prefill)] for row in long]
    assert reads == [[64, 128, 192, 200], [64, 128, 190]]
    assert decoding in batch.rows


def test_a_row_that_is_short_does_not_wait_for_a_long_one(llama):
    batch = RunningBatch(llama, prefill_tokens=SHARED_WIDTH)
    long = row_of(llama, prompt_ids(200), strategy="ar", max_new_tokens=5)
    short = row_of(llama, prompt_ids(20), strategy="ar", max_new_tokens=5)
    batch.join(long)
    batch.join(short)
    for _ in range(3):
        batch.tick()
    assert len(short.output) == 3
    assert not long.output
    assert batch.rows == [short, long]  # rows that decode lie beside each other


def test_seats_are_used_again_and_an_empty_batch_holds_no_cache(llama):
    batch = RunningBatch(llama)
    heights = []
    for number in range(12):
        batch.join(row_of(llama, prompt_ids(9, number), strategy="ar", max_new_tokens=4))
        batch.tick()
        heights.append(batch.held_bytes)
    assert max(heights[4:]) == heights[4] > 0
    while batch.rows:
        batch.tick()
    assert batch.held_bytes == 0


LAYOUTS = [{}, {"block_grid": "absolute"}, FAST_DLLM, {"context": "block_causal"}]


@pytest.mark.parametrize("spec", LAYOUTS)
@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_the_second_turn_reads_only_what_is_new_and_gets_the_same_tokens(spec, strategy):
    model = tiny_model("llama", spec=spec)
    if strategy != "block_diffusion" and not model.spec.commits_as_ar:
        pytest.skip("these checkpoints have no AR pass")
    settings = {"strategy": strategy, "max_new_tokens": 24}
    prefixes = PrefixCache(10**8)
    batch = RunningBatch(model, prefixes=prefixes)
    first = row_of(model, prompt_ids(50), **settings)
    run(batch, first)
    turn = [*first.prompt, *first.output, *prompt_ids(30, 7)]
    second = row_of(model, turn, **settings)
    events = run(batch, second)
    assert events[-1].token_ids == tuple(ids(model, turn, **settings))
    in_blocks = spec.get("context") == "block_causal"
    least = 50 if spec == {"context": "block_causal"} else 74 - 1 - (8 if in_blocks or strategy != "ar" else 0)
    assert least <= second.cached <= 74
    other = row_of(model, prompt_ids(60, 9), **settings)
    run(batch, other)
    assert other.cached == 0


def test_a_cancelled_row_leaves_its_prefix_and_the_same_prompt_again_reads_one_token(llama):
    batch = RunningBatch(llama, prefixes=PrefixCache(10**8))
    row = row_of(llama, prompt_ids(50), strategy="ar", max_new_tokens=30)
    batch.join(row)
    for _ in range(5):
        batch.tick()
    batch.leave(row)
    again = row_of(llama, prompt_ids(50), strategy="ar", max_new_tokens=30)
    assert run(batch, again)[-1].token_ids == tuple(ids(llama, row.prompt, strategy="ar", max_new_tokens=30))
    assert again.cached == 49


def test_the_prefix_cache_stays_in_its_budget_and_drops_what_was_not_used(llama):
    def answer(seed: int) -> AnswerRow:
        row = row_of(llama, prompt_ids(40, seed), strategy="ar", max_new_tokens=2)
        run(batch, row)
        return row

    batch = RunningBatch(llama, prefixes=PrefixCache(10**8))
    answer(1)
    one = batch.prefixes.bytes
    prefixes = PrefixCache(one * 2)
    batch = RunningBatch(llama, prefixes=prefixes)
    for seed in (1, 2, 1, 3):
        answer(seed)
        assert prefixes.bytes <= prefixes.budget
    assert len(prefixes) == 2
    assert answer(1).cached == 39
    assert answer(2).cached == 0
