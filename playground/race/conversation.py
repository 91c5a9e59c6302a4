"""The chat: the turns so far, each with the race of its run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.race.race_file import Race
from playground.race.run_spec import Turn
from playground.server.web_files import read

MOST_TURNS = 20  # older turns are deleted


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """A prompt, the answer of the first lane, and the race of that run."""

    prompt: str
    answer: str
    race: Race


@dataclass(frozen=True, slots=True)
class ChatComponents:
    """The components of the chat. turns: a list of KeptTurn. list: shows them; its event `picked` names one."""

    turns: gr.State
    row: gr.Column
    list: gr.HTML
    clear: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The components that `shown` changes."""
        return [self.turns, self.row, self.list]

    def shown(self, so_far: Sequence[KeptTurn], chosen: int | None = None) -> dict[Any, Any]:
        """The components with these turns; the race of turn `chosen`, or else the newest, is on the stage; -1: that of
        none. Without turns, they are hidden."""
        chosen = len(so_far) - 1 if chosen is None else chosen
        return {
            self.turns: so_far,
            self.row: gr.update(visible=bool(so_far)),
            self.list: {"turns": [_shown(turn) for turn in so_far], "chosen": chosen},
        }


def build() -> ChatComponents:
    """Lay it out in the Blocks being built; it is hidden until there is a turn."""
    turns = gr.State([])
    with gr.Column(elem_id="conversation", visible=False) as row:
        listed = gr.HTML(
            value={"turns": [], "chosen": None},
            html_template=read("conversation.html"),
            css_template=read("conversation.css"),
            js_on_load="\n".join(read(name) for name in ("words.js", "markdown.js", "conversation.js")),
            apply_default_css=False,
            elem_id="turns",
        )
        clear = gr.Button("New chat", size="sm", min_width=110, elem_id="forget")
    return ChatComponents(turns, row, listed, clear)


def _shown(turn: KeptTurn) -> dict[str, str]:
    """A turn as the page shows it. race: its counted work."""
    work = [f"{lane.name} {lane.metrics.decode_forwards}" for lane in turn.race.lanes if lane.metrics is not None]
    return {"prompt": turn.prompt, "answer": turn.answer, "race": f"{' · '.join(work)} forwards" if work else "stopped"}


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
