"""Forks: without a change they decode the same answer; with a changed token they match a naive decoder."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.forking import continued, fork
from nbdiff_engine.trace.events import Commit, Denoise, Edit, Finish, Verify
from nbdiff_engine.trace.trace_file import Canvas, Trace
from tests.reference import causal, logits_of
from tests.tiny import FAST_DLLM, UNSHIFTED, prompt_ids, tiny_model

PROMPT = "Tell me a story in the forest with Mia, a purple wagon and a mouse."
SETTINGS = [
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 16},
    {"strategy": "block_diffusion", "block_size": 8, "sub_block_size": 4, "threshold": 0.95},
    {"strategy": "block_diffusion", "block_size": 16, "unmasking": "fixed_steps", "steps_per_block": 5},
    {"strategy": "block_diffusion", "block_size": 16, "unmasking": "fixed_steps", "sub_block_size": 8},
    {"strategy": "block_diffusion", "block_size": 16, "unmasking": "entropy_bound", "temperature": 0.9, "seed": 3},
    {"strategy": "self_speculative", "block_size": 16},
    {"strategy": "self_speculative", "block_size": 8, "draft_steps": 2, "temperature": 1.0, "seed": 1},
]


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load("nano", dtype="float32")


def traced(model: nb.BlockModel, prompt=PROMPT, **settings) -> Trace:
    return nb.generate(model, prompt, trace=True, max_new_tokens=40, **settings).trace


def decode_fork(model: nb.BlockModel, trace: Trace, after: int, changes=None, **settings) -> Trace:
    """Decode a fork to its end. Its trace must be the same after its file format."""
    edit, start = fork(trace, after, changes or {})
    job = nb.prepare(model, list(trace.prompt_ids), start=start, **{**trace.settings, **settings})
    made = job.trace(0, list(continued(trace.events[:after], edit, job)))
    assert Trace.from_json(made.to_json()).to_json() == made.to_json()
    return made


def outline(events):
    """Position, token and reason of every fixed token. Probabilities are left out: one prefill of the whole context
    rounds differently from many small forwards."""
    return [
        (type(event), getattr(event, "block", None), [(each.position, each.token, each.reason) for each in event.fixed])
        for event in events
        if isinstance(event, Denoise | Commit | Verify)
    ]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_fork_without_a_change_gives_the_same_answer(model, settings):
    trace = traced(model, **settings)
    last = len(trace.events)
    for after in {1, 2, *range(3, last, 4), last - 1, last}:
        forked = decode_fork(model, trace, after)
        assert forked.token_ids == trace.token_ids, after
        after_draft = settings["strategy"] == "self_speculative" and isinstance(trace.events[after - 1], Denoise)
        if not after_draft:  # the fork drafts again
            assert outline(forked.events) == outline(trace.events), after


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_fork_can_be_forked(model, settings):
    trace = traced(model, **settings)
    half = len(trace.events) // 2
    once = decode_fork(model, trace, half)
    twice = decode_fork(model, once, len(once.events) - 2)
    assert twice.token_ids == trace.token_ids
    assert sum(isinstance(event, Edit) for event in twice.events) == 2


@pytest.mark.slow
@pytest.mark.parametrize("spec", [UNSHIFTED, FAST_DLLM, {"block_grid": "absolute"}], ids=str)
def test_other_kinds_of_checkpoints_fork_too(spec):
    """Unshifted, block-causal, and blocks at absolute positions, where the first starts with prompt tokens."""
    model = tiny_model("llama", spec=spec)
    trace = traced(model, prompt_ids(11), strategy="block_diffusion", block_size=4, threshold=0.4)
    for after in range(1, len(trace.events) + 1):
        assert decode_fork(model, trace, after).token_ids == trace.token_ids, after
    changed = decode_fork(model, trace, len(trace.events), {9: 7})
    assert changed.token_ids[9] == 7
    kept = next(event.start for event in changed.events if isinstance(event, Edit))
    assert 5 <= kept <= 9
    assert changed.token_ids[:kept] == trace.token_ids[:kept]


def test_a_fork_can_decode_with_another_threshold(model):
    trace = traced(model, strategy="block_diffusion", block_size=16, unmasking="top_k")
    forked = decode_fork(model, trace, 4, unmasking="confidence", threshold=0.5)
    assert forked.settings["threshold"] == 0.5
    assert len(forked.events) < len(trace.events) / 2
    assert forked.events[4].tokens == tuple(canvas_after(trace, 4))


def canvas_after(trace: Trace, after: int) -> list[int | None]:
    canvas = Canvas()
    for event in trace.events[:after]:
        canvas.apply(event)
    return list(canvas.tokens)


def test_a_changed_token_in_an_unfinished_block_stays_and_the_rest_is_decoded(model):
    trace = traced(model, strategy="block_diffusion", block_size=16, unmasking="top_k")
    forked = decode_fork(model, trace, 4, {3: 77})
    edit = forked.events[4]
    assert isinstance(edit, Edit)
    expected = canvas_after(trace, 4)
    expected[3] = 77
    assert (edit.start, list(edit.tokens), edit.changed) == (0, expected, (3,))
    after = [list(canvas.tokens) for _, canvas in forked.replay()][4:]
    assert all(tokens[3] == 77 for tokens in after)  # a pinned token is never changed
    naive = naive_block(model, list(trace.prompt_ids), expected)
    assert list(forked.token_ids[:16]) == naive


def naive_block(model: nb.BlockModel, prompt: list[int], block: list[int | None]) -> list[int]:
    """Fill the most confident position at each step; every step runs the network on the whole sequence."""
    mask = model.spec.mask_token_id
    ids = [*prompt, *(mask if token is None else token for token in block)]
    allowed = causal(len(ids))
    allowed[len(prompt) :, len(prompt) :] = True
    while mask in ids:
        masked = [index for index, token in enumerate(ids) if token == mask]
        probs = logits_of(model, ids, allowed)[[index - 1 for index in masked]].softmax(-1)
        best = int(probs.max(-1).values.argmax())
        ids[masked[best]] = int(probs[best].argmax())
    return ids[len(prompt) :]


def test_a_masked_token_is_decoded_again(model):
    trace = traced(model, strategy="block_diffusion", block_size=16)
    forked = decode_fork(model, trace, len(trace.events), {5: None})
    assert forked.token_ids[:16] == trace.token_ids[:16]  # it predicts the same token again


def test_a_change_in_a_finished_block_masks_the_tokens_after_it(model):
    trace = traced(model, strategy="block_diffusion", block_size=16)
    edit, start = fork(trace, len(trace.events), {4: 77})
    assert edit.tokens == (*trace.token_ids[:4], 77, *[None] * 11)
    assert (start.number, start.step) == (0, 0)


def test_a_change_drops_the_later_blocks(model):
    trace = traced(model, strategy="block_diffusion", block_size=8)
    edit, start = fork(trace, len(trace.events), {10: 77})
    assert edit.start == 8
    assert start.committed == trace.token_ids[:8]
    assert start.number == 1
    assert len(edit.tokens) == 8
    forked = decode_fork(model, trace, len(trace.events), {10: 77})
    assert forked.token_ids[:8] == trace.token_ids[:8]
    assert forked.token_ids[10] == 77


@pytest.mark.parametrize("strategy", ["ar", "self_speculative"])
def test_ar_continues_after_a_change_as_after_its_own_tokens(model, strategy):
    trace = traced(model, strategy=strategy)
    after = len(trace.events)
    forked = decode_fork(model, trace, after, {3: 77, 4: 78})
    assert forked.token_ids[:5] == (*trace.token_ids[:3], 77, 78)
    prefix = [*trace.prompt_ids, *forked.token_ids[:5]]
    expected = nb.generate(model, prefix, strategy="ar", max_new_tokens=35).token_ids
    assert list(forked.token_ids[5:]) == expected
    assert all(event.block >= 0 for event in forked.events if isinstance(event, Commit | Verify))


def test_the_metrics_of_a_fork_count_only_what_it_decoded(model):
    trace = traced(model, strategy="ar")
    forked = decode_fork(model, trace, len(trace.events), {19: 77})
    metrics = forked.metrics
    assert metrics.output_tokens == len(forked.token_ids) - 20
    assert metrics.decode_forwards == metrics.output_tokens
    assert metrics.tokens_per_forward == 1.0
    assert metrics.prefill_seconds < forked.events[-1].time - trace.events[-1].time


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({-1: 5}, "Position -1 is not on the canvas, which holds"),
        ({900: 5}, "Position 900 is not on the canvas"),
        ({2: 5, 20: 6}, "not of one block"),
        ({2: 10**6}, "holds the token id 1000000; nano has ids 0 to"),
        ({2: 1}, "holds the MASK token (id 1) as a token"),
        ({0: None}, "The first token of a block cannot be masked"),
    ],
)
def test_an_invalid_change_gives_one_sentence(model, changes, sentence):
    trace = traced(model, strategy="block_diffusion", block_size=8)
    with pytest.raises(nb.SettingError) as caught:
        decode_fork(model, trace, len(trace.events), changes)
    assert sentence in str(caught.value)


def test_a_start_belongs_to_one_prompt(model):
    with pytest.raises(nb.SettingError, match="belongs to one prompt; 2 were given"):
        nb.prepare(model, ["a", "b"], start=Start())


def test_a_cut_trace_loads_only_with_whole_false(model):
    data = traced(model, strategy="ar").to_json()
    data["events"] = data["events"][:4]
    assert len(Trace.from_json(data, whole=False).events) == 4
    with pytest.raises(nb.TraceError, match="its last event is no finish"):
        Trace.from_json(data)


@pytest.mark.parametrize(
    "event",
    [
        ["edit", 0, 0.1, -1, [5], []],
        ["edit", 0, 0.1, 99, [5], []],
        ["edit", 0, 0.1, 0, [5], [3]],
        ["edit", 0, 0.1, 0, ["x"], []],
        ["edit", 0, 0.1, 0, [5]],
    ],
)
def test_a_damaged_edit_is_refused(model, event):
    data = traced(model, strategy="ar").to_json()
    data["events"].insert(-1, event)
    with pytest.raises(nb.TraceError, match="This trace is damaged"):
        Trace.from_json(data)


def test_a_trace_of_version_1_is_read(model):
    trace = traced(model, strategy="ar")
    assert Trace.from_json({**trace.to_json(), "version": 1}).to_json() == trace.to_json()
    with pytest.raises(nb.TraceError, match="has version 4; this engine reads 1, 2, 3"):
        Trace.from_json({**trace.to_json(), "version": 4})
    assert isinstance(trace.events[-1], Finish)


@pytest.mark.parametrize("strategy", ["ar", "self_speculative"])
def test_an_eos_among_the_changed_tokens_ends_the_answer(model, strategy):
    trace = traced(model, strategy=strategy)
    eos = min(model.eos_token_ids)
    edit, start = fork(trace, len(trace.events), {4: eos, 5: 77, 6: 78})
    assert edit.tokens == (eos, 77, 78)
    job = nb.prepare(model, list(trace.prompt_ids), start=start, **trace.settings)
    (end,) = list(job.events())
    assert end.token_ids == (*trace.token_ids[:4], eos)
