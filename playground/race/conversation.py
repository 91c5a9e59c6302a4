"""The chat: the turns so far, each with the race of its run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.race.race_file import Race
from playground.race.run_spec import Turn

MOST_TURNS = 20  # older turns are deleted
_LABEL_CHARS = 60


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """A prompt, the answer of the first lane, and the race of that run."""

    prompt: str
    answer: str
    race: Race


@dataclass(frozen=True, slots=True)
class Conversation:
    """The components of the chat. turns: a list of KeptTurn."""

    turns: gr.State
    row: gr.Row
    list: gr.Radio
    clear: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The components that `shown` changes."""
        return [self.turns, self.row, self.list]

    def shown(self, so_far: Sequence[KeptTurn]) -> dict[Any, Any]:
        """The components with these turns, the newest selected. Without turns, the row is hidden."""
        labels = [(f"{number + 1}. {_short(turn.prompt)}", number) for number, turn in enumerate(so_far)]
        chosen = len(so_far) - 1 if so_far else None
        return {
            self.turns: so_far,
            self.row: gr.update(visible=bool(so_far)),
            self.list: gr.update(choices=labels, value=chosen),
        }


def build() -> Conversation:
    """Lay it out in the Blocks being built; it is hidden until there is a turn."""
    turns = gr.State([])
    with gr.Row(elem_id="conversation", visible=False) as row:
        listed = gr.Radio([], label="Chat: select a turn to see how it was decoded", scale=5, min_width=260)
        clear = gr.Button("New chat", size="sm", scale=0, min_width=110, elem_id="forget")
    return Conversation(turns, row, listed, clear)


def added(so_far: Sequence[KeptTurn], prompt: str, race: Race) -> list[KeptTurn]:
    """The turns and one more, whose answer is that of the first lane."""
    answer = race.lanes[0].text if race.lanes else ""
    return [*so_far, KeptTurn(prompt, answer, race)][-MOST_TURNS:]


def history(so_far: Sequence[KeptTurn] | None) -> list[Turn]:
    """The turns as messages of the roles user and assistant."""
    messages = []
    for turn in so_far or []:
        messages.append(Turn(role="user", content=turn.prompt))
        messages.append(Turn(role="assistant", content=turn.answer))
    return messages


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"
