"""Traces are saved, loaded and replayed without loss. Damaged files give one sentence."""

import json

import pytest

import nbdiff_engine as nb
from nbdiff_engine.trace.events import Denoise, Finish, Verify

SETTINGS = [
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 8, "threshold": 0.6},
    {"strategy": "block_diffusion", "block_size": 16, "sub_block_size": 4, "temperature": 1.0},
    {"strategy": "self_speculative", "block_size": 8, "draft_steps": 2},
]


@pytest.fixture(params=SETTINGS, ids=lambda settings: settings["strategy"])
def output(request, golden_model) -> nb.Output:
    return nb.generate(golden_model, "Name the capitals of Peru and Germany.", max_new_tokens=60, **request.param)


def test_a_saved_trace_loads_as_it_was(output, tmp_path):
    path = tmp_path / "trace.json"
    output.trace.save(path)
    loaded = nb.Trace.load(path)
    # Times are stored to the microsecond; everything else exactly.
    assert loaded.to_json() == output.trace.to_json()
    assert loaded.token_ids == output.trace.token_ids
    assert loaded.denoise_inputs() == output.trace.denoise_inputs()
    assert loaded.metrics.tokens_per_forward == output.metrics.tokens_per_forward
    assert loaded.metrics.decode_seconds == pytest.approx(output.metrics.decode_seconds, abs=2e-6)
    assert not list(tmp_path.glob("*.part"))


def test_a_replay_ends_in_the_answer_and_committed_tokens_never_change(output):
    seen: list[int] = []
    for event, canvas in output.trace.replay():
        assert canvas.tokens[: len(seen)] == seen or isinstance(event, Finish)
        seen = canvas.tokens[: canvas.committed]
    assert canvas.tokens == output.token_ids


def test_token_pieces_join_to_the_text(output):
    joined = "".join(output.trace.pieces[token] for token in output.token_ids if token != 0)
    assert joined == output.text


def test_a_token_has_its_complete_confidence_history(golden_model):
    output = nb.generate(golden_model, "What is the capital of Peru?", block_size=8, max_new_tokens=30)
    history: dict[int, int] = {}
    for event in output.trace.events:
        if isinstance(event, Denoise):
            for each in (*event.fixed, *event.pending):
                history[each.position] = history.get(each.position, 0) + 1
            for fixed in event.fixed:
                assert history[fixed.position] == event.step + 1  # one entry a step, from the first on
                assert fixed.alternatives
                assert all(p <= fixed.confidence + 1e-6 for _, p in fixed.alternatives)


def test_rejected_drafts_are_kept_as_events(golden_model):
    trace = nb.generate(golden_model, "What is the capital of Peru?", strategy="self_speculative", block_size=16).trace
    drafted = {
        each.position: each.token for event in trace.events if isinstance(event, Denoise) for each in event.fixed
    }
    rejected = [position for event in trace.events if isinstance(event, Verify) for position in event.rejected]
    assert rejected
    assert set(rejected) <= set(drafted)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a trace"),
        ('{"format": "nbdiff-trace", "version": 99}', "has version 99"),
        ('{"format": "nbdiff-trace", "version": 1}', "is damaged"),
        ("\x00\xff", "is not JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, sentence):
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(nb.TraceError, match=sentence):
        nb.Trace.load(path)


def test_a_truncated_trace_is_refused(golden_model, tmp_path):
    data = nb.generate(golden_model, "What is the capital of Peru?").trace.to_json()
    for events in ([], data["events"][:-1], [["surprise", 0, 0.0]], [["denoise", 0]]):
        path = tmp_path / "short.json"
        path.write_text(json.dumps({**data, "events": events}))
        with pytest.raises(nb.TraceError, match="is damaged"):
            nb.Trace.load(path)


@pytest.mark.parametrize(
    "events",
    [
        [["finish", 0, 0.0, "length", [1]], ["finish", 0, 0.0, "length", [1]]],
        [["prefill", 0, "soon", 4, []], ["finish", 0, 0.0, "length", [1]]],
        [["prefill", 0, 0.0, "four", []], ["finish", 0, 0.0, "length", [1]]],
        [["finish", 0, 0.0, "length", "abc"]],
        [["finish", 0, 0.0, "length", [True]]],
        [["denoise", 0, 0.0, 0, 0, 0, 10**9, [], []], ["finish", 0, 0.0, "length", [1]]],
        [["denoise", 0, 0.0, 0, 0, 50, 54, [], []], ["finish", 0, 0.0, "length", [1]]],
        [["commit", 0, 0.0, 0, 0, 4, [[-3, 5, 0.5, "ar", []]]], ["finish", 0, 0.0, "length", [1]]],
        [["commit", 0, 0.0, 0, 0, 4, [[4, 5, 7.5, "ar", []]]], ["finish", 0, 0.0, "length", [1]]],
        [["verify", 0, 0.0, 0, 0, 4, 9, []], ["finish", 0, 0.0, "length", [1]]],
    ],
)
def test_impossible_events_are_refused(golden_model, events):
    data = nb.generate(golden_model, "What is the capital of Peru?").trace.to_json()
    with pytest.raises(nb.TraceError, match="is damaged"):
        nb.Trace.from_json({**data, "events": events})


@pytest.mark.parametrize(
    "candidates", [[[0, 1, 5]], [[99, 1, 5]], [[1, 9, 5]], [[1, 0, 5]], [[1, 1]], [[1, 1, None]], 3]
)
def test_candidates_that_no_forward_can_have_verified_are_refused(golden_model, candidates):
    data = nb.generate(golden_model, "What is the capital of Peru?").trace.to_json()
    fixed = [[1, 6, 0.5, "accepted_draft", []], [2, 7, 0.5, "ar", []]]
    events = [
        ["prefill", 0, 0.0, 4, []],
        ["verify", 0, 0.0, 0, 0, 3, 1, fixed],
        ["finish", 0, 0.0, "length", [4, 6, 7]],
    ]
    data |= {"events": events, "answer_pieces": []}
    read = nb.Trace.from_json({**data, "candidates": [[1, 1, 5], [1, 1, 6]]})
    assert read.events[1].candidates == ((1, 5), (1, 6))
    assert read.events[1].accepted_candidate == (1, 6)
    with pytest.raises(nb.TraceError, match="is damaged"):
        nb.Trace.from_json({**data, "candidates": candidates})


@pytest.mark.parametrize("content", ["[" * 200_000, '{"format": ' + "9" * 5000 + "}"])
def test_json_that_would_break_the_parser_is_refused(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(nb.TraceError):
        nb.Trace.load(path)


def test_a_trace_that_cannot_be_written_leaves_no_file(golden_model, tmp_path):
    trace = nb.generate(golden_model, "What is the capital of Peru?").trace
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "trace.json"):
        with pytest.raises(nb.TraceError, match="cannot be written"):
            trace.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(nb.TraceError, match="cannot be read"):
        nb.Trace.load(tmp_path / "none.json")
