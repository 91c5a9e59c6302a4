"""Forwards that verify and draft: the answer is AR's, in no more forwards, whatever the layout; the trace tells drafts
from tokens."""

from itertools import product

import pytest

import nbdiff_engine as nb
from nbdiff_engine import BlockModel
from nbdiff_engine.model.session import Session
from nbdiff_engine.model.width_cost import WIDTHS, WidthCost, set_width_cost
from nbdiff_engine.trace.events import Finish, Prefill, Reason, Verify
from nbdiff_engine.trace.trace_file import Canvas, Trace
from tests.draft_adapters import tiny_drafter
from tests.engine.answers import PROMPTS, ids
from tests.tiny import FAMILIES, FUSED, in_part_slow, tiny_model

LAYOUTS = ("auto", "separate", "behind_last", "behind_each")
SAMPLINGS = ({}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3, "presence_penalty": 0.5})
CHEAP = WidthCost(tuple(1 + 0.004 * width for width in WIDTHS))  # as on a machine that waits for its memory
DEAR = WidthCost(tuple(float(width) for width in WIDTHS))  # each token of a forward costs as much as the first


def drafting(layout: str, **settings) -> dict:
    return {"strategy": "self_speculative", "draft_layout": layout, "max_new_tokens": 30, **settings}


@pytest.fixture(scope="module", params=in_part_slow([*FAMILIES, *(f"{family} fused" for family in FUSED)]))
def pair(request: pytest.FixtureRequest) -> tuple[BlockModel, BlockModel]:
    """A base, and the same with a random adapter that changes little, so that some of its drafts are right."""
    family, *fused = request.param.split()
    base, drafter = tiny_drafter(family, fused=bool(fused), scale=0.02)
    set_width_cost(drafter, CHEAP)
    return base, drafter


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_ar_with_the_adapter_loaded_and_self_speculation_are_the_bases_ar(pair, sampling):
    base, drafter = pair
    how = {"max_new_tokens": 18, **sampling}
    expected = ids(base, PROMPTS, strategy="ar", **how)
    assert ids(drafter, PROMPTS, strategy="ar", **how) == expected
    for layout in LAYOUTS:
        assert ids(drafter, PROMPTS, **drafting(layout, **how)) == expected, layout
        if layout != "auto":  # which has candidates
            assert ids(drafter, PROMPTS, **drafting(layout, draft_candidates=4, **how)) == expected, layout
    assert ids(drafter, PROMPTS, **drafting("separate", draft_steps=2, draft_candidates=2, **how)) == expected


@pytest.mark.parametrize("options", [{"noise": "uniform"}, {"noise_attention": "causal"}, {"block_size": 2}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_of_noise_and_the_smallest_block(options, layout):
    base, drafter = tiny_drafter("llama", fused=True, **options)
    set_width_cost(drafter, CHEAP)
    expected = ids(base, PROMPTS, strategy="ar", max_new_tokens=30)
    assert ids(drafter, PROMPTS, **drafting(layout, draft_candidates=3)) == expected


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_checkpoint_of_the_papers_way_too(golden_model, golden_cases, sampling):
    set_width_cost(golden_model, CHEAP)
    prompts = [case["prompt_ids"] for case in golden_cases[:6]]
    how = {"max_new_tokens": 48, **sampling}
    expected = ids(golden_model, prompts, strategy="ar", **how)
    for layout, candidates in product(LAYOUTS, (0, 4)):
        drafts = {"strategy": "self_speculative", "draft_layout": layout, "draft_candidates": candidates}
        assert ids(golden_model, prompts, block_size=8, **how, **drafts) == expected, (layout, candidates)


def test_one_forward_that_does_both_takes_fewer_of_them(golden_model, golden_cases):
    prompts = [case["prompt_ids"] for case in golden_cases[:12]]

    def forwards(layout: str) -> int:
        how = {"strategy": "self_speculative", "block_size": 8, "max_new_tokens": 64, "draft_backoff": False}
        return sum(
            each.metrics.decode_forwards for each in nb.generate(golden_model, prompts, draft_layout=layout, **how)
        )

    assert forwards("behind_each") < forwards("behind_last") < forwards("separate")


@pytest.mark.parametrize("layout", ["separate", "behind_last"])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_candidates_save_forwards_and_the_trace_tells_accepted_from_rejected(
    golden_model, golden_cases, layout, temperature
):
    prompts = [case["prompt_ids"] for case in golden_cases[:12]]
    how = {"strategy": "self_speculative", "draft_layout": layout, "block_size": 8, "max_new_tokens": 64}
    how |= {"temperature": temperature, "draft_backoff": False, "draft_confidence": 0.2}
    plain, candidates = (nb.generate(golden_model, prompts, draft_candidates=count, **how) for count in (0, 3))
    assert [each.token_ids for each in candidates] == [each.token_ids for each in plain]
    forwards = [sum(each.metrics.decode_forwards for each in outputs) for outputs in (plain, candidates)]
    assert forwards[1] < forwards[0]
    accepted = 0
    for output in candidates:
        read = Trace.from_json(output.trace.to_json())
        assert read.to_json() == output.trace.to_json()
        for event in read.events:
            if not isinstance(event, Verify):
                continue
            assert len(event.candidates) <= 3
            texts = {each.position: each for each in event.fixed}
            for at, token in event.candidates:
                assert event.start < at < event.stop
                right = at == event.start + event.accepted and texts[at].token == token
                assert right == ((at, token) == event.accepted_candidate)
                if right:
                    assert texts[at].reason is Reason.ACCEPTED_DRAFT
                    accepted += 1
                elif at <= event.start + event.accepted:
                    assert output.token_ids[at] != token  # AR has been there, and chose another one
    assert accepted >= 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_short_answer_takes_no_more_forwards_than_ar(layout):
    for make in (lambda: tiny_drafter("llama", fused=True)[1], lambda: tiny_model("llama", fused=True)):
        model = make()
        set_width_cost(model, CHEAP)
        if layout == "separate" and model.draft is None:
            continue  # the paper's rules: a draft has forwards of its own
        for count in (1, 2, 3, 4, 9):
            output = nb.generate(model, PROMPTS[0], **{**drafting(layout), "max_new_tokens": count})
            assert output.metrics.decode_forwards <= count - 1


@pytest.mark.parametrize("cost", [CHEAP, DEAR, WidthCost(tuple(1 + 0.03 * width for width in WIDTHS))], ids=str)
def test_useless_drafts_cost_at_most_a_tenth_more_than_ar(monkeypatch, cost):
    """The drafts of a random adapter, by the cost of the widths that were run."""
    _, drafter = tiny_drafter("llama", fused=True, scale=1.0)
    set_width_cost(drafter, cost)
    widths: list[int] = []
    run = Session.run

    def counted(self, passes):
        widths.append(len(passes[0].tokens))
        return run(self, passes)

    monkeypatch.setattr(Session, "run", counted)
    for prompt in PROMPTS:
        widths.clear()
        output = nb.generate(drafter, prompt, **{**drafting("auto"), "max_new_tokens": 64})
        spent = sum(cost(width) / cost(1) for width in widths[1:])  # without the prefill
        assert output.metrics.accepted <= 12  # they are useless, and of 48 tokens a candidate is right now and then
        assert spent <= 1.1 * (output.metrics.output_tokens - 1)


def test_the_same_call_gives_the_same_events_alone_and_in_a_batch():
    _, drafter = tiny_drafter("llama", fused=True, scale=0.02)
    for layout in ("behind_last", "behind_each"):
        alone, together = (
            [
                each
                for each in nb.stream(drafter, prompts, **drafting(layout))
                if each.row == 0 and isinstance(each, Verify)
            ]
            for prompts in (PROMPTS[0], PROMPTS)
        )
        facts = [[(e.start, e.stop, e.accepted, [f.token for f in e.fixed]) for e in own] for own in (alone, together)]
        assert facts[0] == facts[1]


@pytest.mark.parametrize("layout", ["behind_last", "behind_each", "separate"])
def test_a_trace_tells_drafts_from_tokens_that_are_final(golden_model, golden_cases, layout):
    how = {"strategy": "self_speculative", "draft_layout": layout, "block_size": 8, "max_new_tokens": 48}
    output = nb.generate(golden_model, golden_cases[0]["prompt_ids"], **how)
    trace = Trace.from_json(output.trace.to_json())
    assert trace.to_json() == output.trace.to_json()
    canvas, drafted = Canvas(), 0
    for event in trace.events:
        canvas.apply(event)
        if isinstance(event, Prefill | Finish):
            continue
        assert canvas.tokens[: canvas.final] == output.token_ids[: canvas.final]
        own = [each for each in event.fixed if each.reason is Reason.DRAFT]
        drafted += len(own)
        if isinstance(event, Verify):
            assert canvas.final == len(canvas.tokens) - len(own)
            assert [each.position for each in event.fixed] == list(range(event.start + 1, len(canvas.tokens)))
    assert drafted > 10
    assert canvas.tokens == output.token_ids
    kept = ("decode_forwards", "drafted", "accepted", "tokens_per_forward")
    assert [getattr(trace.metrics, name) for name in kept] == [getattr(output.metrics, name) for name in kept]


def test_a_draft_of_several_passes_has_forwards_of_its_own(golden_model):
    with pytest.raises(nb.SettingError, match="draft_steps is 2 and draft_layout 'behind_last'"):
        nb.generate(golden_model, [5, 6], strategy="self_speculative", draft_layout="behind_last", draft_steps=2)
