"""Prompts for chat models: reproducible, without a subject in both splits, and the committed held-out ones."""

import pytest

from nbdiff_engine.tasks.held_out import held_out_prompts
from training.corpus import chat_prompts
from training.corpus.chat_prompts import KINDS, chat_prompt
from training.corpus.write_held_out import held_out_chat_prompts
from training.errors import DataError


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_arguments_give_the_same_prompt(kind):
    first = [chat_prompt(kind, "train", index, seed=3) for index in range(30)]
    assert first == [chat_prompt(kind, "train", index, seed=3) for index in range(30)]
    assert len(set(first)) > 20
    assert first != [chat_prompt(kind, "train", index, seed=4) for index in range(30)]
    assert not any("{" in prompt for prompt in first)


@pytest.mark.parametrize("kind", KINDS)
def test_no_subject_is_in_both_splits(kind, monkeypatch):
    seen = {}
    draw = chat_prompts._DRAW[kind]

    def recorded(rng):
        subject, prompt = draw(rng)
        seen[prompt] = subject
        return subject, prompt

    monkeypatch.setitem(chat_prompts._DRAW, kind, recorded)
    subjects = {split: {seen[chat_prompt(kind, split, index)] for index in range(300)} for split in ("train", "test")}
    assert subjects["train"]
    assert subjects["test"]
    assert not subjects["train"] & subjects["test"]


def test_an_unknown_kind_or_split_is_refused():
    with pytest.raises(DataError, match="'poems'; the kinds are chat, knowledge"):
        chat_prompt("poems", "train", 0)
    with pytest.raises(DataError, match="no split 'dev'; it is train or test"):
        chat_prompt("chat", "dev", 0)


def test_the_committed_prompts_are_the_first_of_the_test_splits():
    committed = held_out_prompts()
    assert committed == held_out_chat_prompts()
    assert {kind: [each for each, _ in committed].count(kind) for kind in KINDS} == {
        "chat": 40,
        "knowledge": 40,
        "maths": 40,
        "code": 40,
        "summary": 40,
    }
    assert len({prompt for _, prompt in committed}) == 200
