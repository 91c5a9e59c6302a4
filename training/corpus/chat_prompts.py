"""Prompts for a chat model to answer: chat, knowledge, maths, code and summarising. They have no answers.

A draft adapter is trained on what its base answers, and measured on answers to other prompts. The subject of a prompt
(not its wording) decides its split, so no subject is in both; maths has the word problems of `corpus.math`.
"""

from collections.abc import Callable
from random import Random

from nbdiff_engine.errors import brief
from training.corpus import math
from training.corpus.chat_topics import ACTIVITIES, CODE, KNOWLEDGE, READERS, TEXTS
from training.corpus.keyed_problem import SPLITS, split_of
from training.errors import DataError

_CHAT = (
    "Give me three tips for {}.",
    "What should I know before {}?",
    "Write a short story about {}.",
    "I am thinking about {}. How do I begin?",
    "Write a short poem about {}.",
    "List five mistakes that people make when {}.",
    "Make a plan for one week of {}.",
    "Write a friendly email to a friend about {}.",
    "What are the advantages and disadvantages of {}?",
    "Is {} a good idea for a busy person?",
    "Write a dialogue between two people about {}.",
    "Which things do I need for {}?",
)
_KNOWLEDGE = (
    "What is {}?",
    "Explain {} to {reader}.",
    "How would you describe {} in two sentences?",
    "Why is {} important?",
    "Tell me three facts about {}.",
    "What do people often get wrong about {}?",
    "Write a short paragraph about {}.",
    "Give an example of {} from daily life.",
    "What is the history of {}?",
)
_CODE = (
    "Write a Python function that {}.",
    "Write a Python function that {}, and explain how it works.",
    "Show me a short Python program that {}.",
    "Write a Python function that {}, with a docstring and an example.",
    "Can you write code in Python that {}?",
    "Write a JavaScript function that {}.",
    "Write a test for a Python function that {}.",
)
_SUMMARY = (
    "Summarise this text in one sentence.\n\n{}",
    "Summarise the following text in three bullet points.\n\n{}",
    "What is the main point of this text?\n\n{}",
    "Write a title for this text, and say why it fits.\n\n{}",
    "Rewrite this text for {reader}.\n\n{}",
    "{}\n\nWrite a short summary of the text above.",
    "List the numbers in this text and what each of them means.\n\n{}",
    "Write three questions about this text, with their answers.\n\n{}",
    "Explain the following text to {reader}.\n\n{}",
)

Drawn = tuple[str, str]  # the subject, the prompt


def chat_prompt(kind: str, split: str, index: int, seed: int = 0) -> str:
    """Prompt `index` of a split of a kind. Every index has a prompt; the same arguments give the same prompt.

    Raises DataError for an unknown kind or split.
    """
    if kind not in _DRAW:
        raise DataError(f"There are no chat prompts of the kind {brief(kind)}; the kinds are {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise DataError(f"The prompts have no split {brief(split)}; it is {' or '.join(SPLITS)}.")
    rng = Random(f"{seed}/chat/{kind}/{split}/{index}")
    while True:
        subject, prompt = _DRAW[kind](rng)
        if split_of(kind, subject, one_in=4) == split:
            return prompt


def _drawn_from(subjects: tuple[str, ...], wordings: tuple[str, ...]) -> Callable[[Random], Drawn]:
    def draw(rng: Random) -> Drawn:
        subject = rng.choice(subjects)
        return subject, rng.choice(wordings).format(subject, reader=rng.choice(READERS))

    return draw


def _maths(rng: Random) -> Drawn:
    keyed = math.draw(rng)
    return keyed.key, keyed.problem.prompt


_DRAW: dict[str, Callable[[Random], Drawn]] = {
    "chat": _drawn_from(ACTIVITIES, _CHAT),
    "knowledge": _drawn_from(KNOWLEDGE, _KNOWLEDGE),
    "maths": _maths,
    "code": _drawn_from(CODE, _CODE),
    "summary": _drawn_from(TEXTS, _SUMMARY),
}
KINDS = tuple(_DRAW)
