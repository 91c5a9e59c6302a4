"""Tool calls are found in the text of an answer however it is cut into pieces, and what is no call stays text."""

import json
import random

import pytest

import nbdiff_engine as nb
from nbdiff_engine.serving.replies import HttpReply
from nbdiff_engine.serving.request_fields import ChatBody
from nbdiff_engine.serving.tool_calls import ToolCallReader, for_template
from nbdiff_engine.trace.events import Commit, Finish, FinishReason, Fixed, Reason
from tests.engine.serving.servers import QUESTION

CALL = '<tool_call>\n{"name": "find", "arguments": {"word": "é", "most": 2}}\n</tool_call>'
FOUND = ("find", {"word": "é", "most": 2})
TEXTS = [
    ("No call at all.\n", "No call at all.\n", []),
    (CALL, "", [FOUND]),
    (f"I look. {CALL}\n{CALL}\n", "I look.", [FOUND, FOUND]),
    (f"{CALL}\nDone.", "\nDone.", [FOUND]),
    ('<tool_call>[{"name": "a"}, {"name": "b", "parameters": {}}]</tool_call>', "", [("a", {}), ("b", {})]),
    (CALL.removesuffix("</tool_call>"), "", [FOUND]),  # the answer ended before the last tag
    ("1 < 2 and <tool", "1 < 2 and <tool", []),
    ("a <tool_call>nothing</tool_call> b", "a <tool_call>nothing</tool_call> b", []),
    ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    ('<tool_call>{"name": "a", "arguments": [', '<tool_call>{"name": "a", "arguments": [', []),
    ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>',) * 2 + ([],),
    ("<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", []),
    ("<tool_call>" + "[" * 20_000, "<tool_call>" + "[" * 20_000, []),
]


def calls_of(reader: ToolCallReader) -> list[tuple]:
    return [(call.name, json.loads(call.arguments)) for call in reader.calls]


@pytest.mark.parametrize(("text", "content", "calls"), TEXTS, ids=lambda each: str(each)[:20])
def test_text_and_calls_do_not_depend_on_how_the_answer_is_cut(text, content, calls):
    for seed in range(5):
        reader, pieces, rest, cuts = ToolCallReader(), [], text, random.Random(seed)
        while rest:
            size = cuts.randint(1, max(2, len(rest) // 3)) if seed else len(rest)
            pieces.append(reader.add(rest[:size]))
            rest = rest[size:]
        pieces.append(reader.end())
        assert "".join(pieces) == content
        assert calls_of(reader) == calls
        assert len({call.id for call in reader.calls}) == len(calls)


def test_half_of_a_surrogate_pair_is_escaped():
    reader = ToolCallReader()
    reader.add('<tool_call>{"name": "a", "arguments": {"x": "\\ud800"}}</tool_call>')
    reader.calls[0].arguments.encode()
    assert json.loads(reader.calls[0].arguments) == {"x": "\ud800"}


@pytest.fixture(scope="module")
def answered(nano) -> tuple:
    """A job, and the events of an answer with a call to it."""
    job = nb.prepare(nano, QUESTION, strategy="ar", max_new_tokens=400)
    tokens = nano.tokenizer.encode(f"I look. {CALL}", add_special_tokens=False)
    events = [
        Commit(0, 0.0, at, at, at + 1, (Fixed(at, token, 1.0, Reason.AR),)) for at, token in enumerate(tokens, start=0)
    ]
    return job, [*events, Finish(0, 0.0, FinishReason.EOS, tuple(tokens))]


def test_an_answer_has_its_calls_whole_and_in_a_stream(answered):
    job, events = answered
    reply = HttpReply("nano", chat=True, tools=True)
    chunks = [*reply.add_prompt(job, 1), *filter(None, (reply.add(0, event) for event in events))]
    choice = reply.whole()["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I look.", "tool_calls")
    assert (call["type"], call["function"]["name"]) == ("function", "find")
    assert json.loads(call["function"]["arguments"]) == FOUND[1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "I look."
    assert [each for delta in deltas for each in delta.get("tool_calls", ())] == [{"index": 0, **call}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_without_tools_a_call_is_text(answered):
    job, events = answered
    reply = HttpReply("nano", chat=True)
    reply.add_prompt(job, 1)
    for event in events:
        reply.add(0, event)
    choice = reply.whole()["choices"][0]
    assert CALL in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_tools_reach_the_template_unless_the_caller_wants_no_call():
    tools = [{"type": "function", "function": {"name": "find"}}]
    fields = {"model": "nano", "messages": [{"role": "user", "content": "a"}]}
    asked = [ChatBody(**fields, tools=tools, tool_choice=choice) for choice in (None, "auto", "none")]
    assert [body.template_arguments for body in asked] == [{"tools": tools}, {"tools": tools}, {}]
    assert [body.uses_tools for body in (*asked, ChatBody(**fields, tools=[]))] == [True, True, False, False]


def test_the_template_gets_earlier_calls_as_objects():
    def turn(arguments):
        return {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": arguments}}]}

    user = {"role": "user", "content": "a"}
    assert for_template([user, turn('{"x": 1}')]) == [user, turn({"x": 1})]
    assert for_template([turn({"x": 1}), turn("no JSON"), "wrong"]) == [turn({"x": 1}), turn("no JSON"), "wrong"]
