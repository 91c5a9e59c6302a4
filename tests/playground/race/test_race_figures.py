"""The figures of a race: the numbers come from the events, and the name of a lane is plain text."""

import json
from typing import Any

import pytest

import nbdiff_engine as nb
from nbdiff_engine.trace.trace_file import Trace
from playground.race import race_figures as figures
from playground.race.race_file import RaceLane

PROMPT = [5, 9, 12, 7]


HEADER = {"format": "nbdiff-trace", "version": 2, "model": "m", "settings": {}, "mask_token_id": 1}
REST = {"prompt": None, "prompt_ids": PROMPT, "pieces": {}}


def lane(name: str, events: list[Any]) -> RaceLane:
    trace = Trace.from_json({**HEADER, **REST, "events": events}, whole=False)
    return RaceLane(name, "", trace, context=None, token_shift=None)


DIFFUSION = [
    ["prefill", 0, 0.01, 2, [[0, 0, 0.6, "ar", [[1, 0.3]]]]],
    ["denoise", 0, 0.02, 0, 0, 0, 4, [[1, 1, 0.97, "over_threshold", []]], [[2, 3, 0.4], [3, 3, 0.5]]],
    ["denoise", 0, 0.03, 0, 1, 0, 4, [[2, 4, 0.7, "most_confident", []], [3, 2, 0.95, "over_threshold", []]], []],
    ["commit", 0, 0.04, 0, 0, 4, [[4, 9, 0.8, "ar", []]]],
    ["denoise", 0, 0.05, 1, 0, 4, 8, [[at, 1, 0.9, "over_threshold", []] for at in (5, 6, 7)], []],
    ["finish", 0, 0.05, "eos", [0, 1, 4, 2, 9, 1]],
]
SPECULATION = [
    ["prefill", 0, 0.01, 2, [[0, 0, 0.6, "ar", []]]],
    ["denoise", 0, 0.02, 0, 0, 0, 4, [[at, 1, 0.9, "draft", []] for at in (1, 2, 3)], []],
    ["verify", 0, 0.03, 0, 0, 4, 1, [[1, 1, 0.99, "accepted_draft", []], [2, 2, 0.8, "correction", []]]],
    ["finish", 0, 0.03, "length", [0, 1, 2]],
]


def test_tokens_over_time_counts_fixed_tokens_up_to_the_end_of_the_answer() -> None:
    line, speculative = figures.tokens_over_time([lane("Block", DIFFUSION), lane("Self", SPECULATION)]).data
    assert list(line.x) == [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.05]
    assert list(line.y) == [0, 1, 2, 4, 5, 6, 6]  # only one token of the last block is before the end of the answer
    assert list(speculative.y) == [0, 1, 1, 3, 3]  # drafts do not count
    assert line.line.shape == "hv"
    assert (line.line.color, line.line.dash) != (speculative.line.color, speculative.line.dash)


def test_unmasked_per_step_marks_denoise_and_commit_differently() -> None:
    line, speculative = figures.unmasked_per_step([lane("Block", DIFFUSION), lane("Self", SPECULATION)]).data
    assert (list(line.x), list(line.y)) == ([1, 2, 3, 4], [1, 2, 1, 1])
    assert list(line.text) == ["denoise", "denoise", "commit", "denoise"]
    assert list(line.marker.symbol) == ["circle", "circle", "circle-open", "circle"]
    assert list(speculative.y) == [0, 2]


def test_the_confidence_map_is_empty_at_positions_outside_the_pass() -> None:
    heat, marks = figures.confidence_map(lane("Block", DIFFUSION)).data
    assert list(heat.y) == [0, 1, 2, 3, 4]
    assert [list(row) for row in heat.z] == [
        [0.6, None, None, None, None, None],
        [None, 0.97, 0.4, 0.5, None, None],
        [None, None, 0.7, 0.95, None, None],
        [None, None, None, None, 0.8, None],
        [None, None, None, None, None, 0.9],
    ]
    assert list(zip(marks.x, marks.y)) == [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 4)]


def test_after_an_edit_only_the_remaining_tokens_are_counted() -> None:
    edit = ["edit", 0, 0.03, 0, [0, 1, None, None], [2]]
    events = [*DIFFUSION[:3], edit, DIFFUSION[2], *DIFFUSION[3:]]
    (line,) = figures.tokens_over_time([lane("Fork", events)]).data
    assert list(line.y) == [0, 1, 2, 4, 2, 4, 5, 6, 6]
    figures.confidence_map(lane("Fork", events))


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_the_figures_of_a_real_trace_agree_with_its_metrics(llama: nb.BlockModel, strategy: str) -> None:
    output = nb.generate(llama, PROMPT, strategy=strategy, max_new_tokens=21, ignore_eos=True)
    made = lane(strategy, output.trace.to_json()["events"])
    (over_time,) = figures.tokens_over_time([made]).data
    (per_step,) = figures.unmasked_per_step([made]).data
    assert over_time.y[-1] == output.metrics.output_tokens == 21
    assert list(over_time.y) == sorted(over_time.y)
    assert len(per_step.y) == output.metrics.decode_forwards
    assert sum(per_step.y) == 20  # the prefill fixes the first token
    heat, marks = figures.confidence_map(made).data
    assert len(heat.z) == output.metrics.decode_forwards + 1
    assert list(marks.x) == list(range(21))


def test_a_trace_without_prefill_begins_at_forward_1() -> None:
    heat, _ = figures.confidence_map(lane("Block", DIFFUSION[1:])).data
    assert heat.y[0] == 1


def test_a_name_with_markup_is_plain_text() -> None:
    figure = figures.tokens_over_time([lane("<a href='javascript:x'>%{x}", DIFFUSION)])
    assert "<a" not in json.dumps(figure.to_plotly_json()["data"])
    assert "%{x}:" not in figure.data[0].hovertemplate.replace("% {x}", "")
