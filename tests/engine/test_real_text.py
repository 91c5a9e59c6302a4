"""Answers in any script, by tokenizers of the usual kinds: text, live text and traces have whole characters."""

import json

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.answer_text import TokenTexts
from nbdiff_engine.generate import text_pieces
from nbdiff_engine.trace.events import FinishReason
from nbdiff_engine.trace.trace_file import Trace
from tests.engine.decoding.tokenizer_kinds import KINDS, tokenizer_of
from tests.tiny import tiny_model

STRATEGIES = ("ar", "block_diffusion", "self_speculative")
PROMPT = [7, 8, 9]


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> nb.BlockModel:
    """A random model, whose answers are random tokens, with a tokenizer of each kind."""
    tokenizer = tokenizer_of(request.param)
    bare = tiny_model("llama", vocab_size=len(tokenizer), spec={"mask_token_id": 4})
    return nb.BlockModel(bare.network, tokenizer, bare.spec, "tiny")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stop", [(), ("e", "ου")])
def test_live_text_text_and_trace_are_one_text(model, strategy, stop):
    for seed in range(3):
        job = nb.prepare(
            model, PROMPT, strategy=strategy, temperature=1.5, seed=seed, max_new_tokens=60, stop=stop, ignore_eos=True
        )
        events = []
        live = "".join(text_pieces(job, job.events(), events.append))
        output = job.output(0, events)
        assert live == output.text
        trace = Trace.from_json(json.loads(json.dumps(output.trace.to_json())))
        assert trace == output.trace or trace.to_json() == output.trace.to_json()  # times are rounded
        whole = "".join(trace.answer_pieces)
        assert len(trace.answer_pieces) == len(trace.token_ids)
        ends = [whole.index(each) for each in stop if each in whole]
        assert output.text == (whole[: min(ends)] if ends else whole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_text_is_shown_as_soon_as_its_forward_has_run(model, strategy):
    job = nb.prepare(model, PROMPT, strategy=strategy, max_new_tokens=40, ignore_eos=True)
    seen, shown = [], ""
    whole = job.outputs()[0].token_ids
    for piece in text_pieces(job, job.events(), seen.append):
        shown += piece
        fixed = {each.position for event in seen if hasattr(event, "fixed") for each in event.fixed}
        final = next((at for at in range(len(whole)) if at not in fixed), len(whole))
        if strategy == "self_speculative":  # a draft is final only when it is verified
            final = min(final, max((e.start + e.accepted + 2 for e in seen if hasattr(e, "accepted")), default=1))
        complete = "".join(job.answer_pieces(whole[:final])).rstrip("\ufffd")
        assert len(shown) >= len(complete)
        assert "".join(job.answer_pieces(whole)).startswith(shown.rstrip("\ufffd"))


def test_a_long_answer_is_decoded_a_few_tokens_at_a_time(model, monkeypatch):
    job = nb.prepare(model, PROMPT, strategy="ar", max_new_tokens=150, ignore_eos=True)
    widths = []
    decode = TokenTexts.decode

    def counted(self, ids):
        widths.append(len(ids))
        return decode(self, ids)

    monkeypatch.setattr(TokenTexts, "decode", counted)
    assert "".join(text_pieces(job, job.events()))
    assert max(widths) <= 12
    assert len(widths) <= 2 * 150 + 1


def test_a_special_token_may_be_a_stop_string(model):
    settings = {"temperature": 2.0, "max_new_tokens": 120, "ignore_eos": True, "strategy": "ar"}
    names = ["<|im_end|>", "<s>", "</s>", "<|im_start|>"]
    ids = model.tokenizer.convert_tokens_to_ids(names)
    for seed in range(40):
        whole = nb.generate(model, PROMPT, seed=seed, **settings)
        if not set(ids).isdisjoint(whole.token_ids):
            break
    at = next(at for at, token in enumerate(whole.token_ids) if token in ids)
    output = nb.generate(model, PROMPT, seed=seed, stop=names, **settings)
    assert output.finish_reason == FinishReason.STOP_STRING
    assert output.token_ids == whole.token_ids[: at + 1]
    assert output.text == "".join(output.trace.answer_pieces)
    assert not any(name in output.text for name in names)


def test_a_trace_has_the_bytes_of_tokens_with_parts_of_characters(model):
    output = nb.generate(model, PROMPT, temperature=1.5, max_new_tokens=60, ignore_eos=True)
    texts = TokenTexts(model.tokenizer)
    if not (texts.byte_level or texts.byte_fallback):
        assert output.trace.partial_bytes == {}
        return
    assert output.trace.partial_bytes
    for token, found in output.trace.partial_bytes.items():
        with pytest.raises(UnicodeDecodeError):
            found.decode()
        assert "\ufffd" in output.trace.pieces[token]


def test_a_trace_of_an_earlier_release_has_none_of_these(model):
    data = nb.generate(model, PROMPT, max_new_tokens=8).trace.to_json()
    del data["bytes"], data["answer_pieces"]
    old = Trace.from_json(data)
    assert (old.partial_bytes, old.answer_pieces) == ({}, ())
    for damage in ({"bytes": {"5": "xyz"}}, {"bytes": []}, {"answer_pieces": ["a"]}, {"answer_pieces": 5}):
        with pytest.raises(nb.TraceError, match="is damaged"):
            Trace.from_json({**data, **damage})
