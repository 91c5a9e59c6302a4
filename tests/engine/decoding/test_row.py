"""The row of one answer: which tokens it keeps, and what ends it."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.trace.events import Finish, FinishReason
from tests.tiny import tiny_model


def test_special_tokens_do_not_hide_a_stop_string(golden_model):
    plan = nb.prepare(golden_model, "Hello", stop="The capital", ignore_eos=True).plan
    row = AnswerRow(0, [2], plan)
    the, capital = golden_model.tokenizer("The capital")["input_ids"]
    assert row.append_final([the, *[0] * 30, capital]) == FinishReason.STOP_STRING


def test_tokens_are_kept_up_to_the_one_that_ends_the_answer(llama):
    row = AnswerRow(0, [5, 6], nb.prepare(llama, [5, 6], max_new_tokens=4).plan)
    assert row.append_final([7, 8]) is None
    assert (row.output, row.end) == ([7, 8], 4)
    assert row.append_final([9, 10, 11]) == FinishReason.LENGTH
    assert row.output == [7, 8, 9, 10]


@pytest.mark.parametrize(("ignore_eos", "reason"), [(False, FinishReason.EOS), (True, None)])
def test_an_eos_ends_the_answer_unless_it_is_ignored(ignore_eos, reason):
    model = tiny_model("llama")
    model.__dict__["eos_token_ids"] = frozenset({9})
    row = AnswerRow(0, [5], nb.prepare(model, [5], ignore_eos=ignore_eos).plan)
    assert row.append_final([7, 9, 8]) == reason
    assert row.output == ([7, 9] if reason else [7, 9, 8])


def test_the_context_length_ends_an_answer(llama):
    prompt = [5] * (llama.context_length - 2)
    row = AnswerRow(0, prompt, nb.prepare(llama, prompt).plan)
    assert row.append_final([7, 8, 9]) == FinishReason.LENGTH
    assert row.output == [7, 8]


def test_tokens_of_the_start_count_towards_the_limit(llama):
    plan = nb.prepare(llama, [5, 6], max_new_tokens=3).plan
    row = AnswerRow(0, [5, 6], plan, Start(committed=(7, 8)))
    assert (row.context, row.output, row.ended) == ([5, 6, 7, 8], [7, 8], None)
    assert AnswerRow(0, [5, 6], plan, Start(committed=(7, 8, 9))).ended == FinishReason.LENGTH


def test_drain_returns_each_event_once(llama):
    row = AnswerRow(3, [5], nb.prepare(llama, [5]).plan)
    row.append_final([7])
    row.finish(FinishReason.LENGTH)
    assert row.drain() == [Finish(3, 0.0, FinishReason.LENGTH, (7,))]
    assert row.drain() == []
