"""What the page shows of a model before a visitor asks for anything: a line about it, prompts, presets, a race.

The page opens on the first one. Where there are two, the visitor chooses: SmolLM2 answers as people expect it and has
no blocks, nano has blocks and is a toy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nbdiff_engine.model.checkpoint_folders import bundled_adapters
from nbdiff_engine.model.draft_spec import DraftSpec
from playground.race.presets import draft_presets, presets
from playground.race.run_spec import LaneSpec
from playground.server.coming_model import OPENS_ON
from playground.server.lane_models import LaneModel, LaneModels

MAX_NEW_TOKENS = 96  # the default; the limit is in ServerOptions


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that a button fills in."""

    label: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Opening:
    """model: its name. label: in the choice; about: what it is and knows, in one line. The first example is the prompt
    of the recorded race, and the first preset has its lanes."""

    model: str
    label: str
    about: str
    examples: Sequence[Example]
    presets: dict[str, list[LaneSpec]]

    @property
    def lanes(self) -> list[LaneSpec]:
        """The lanes of the first preset."""
        return next(iter(self.presets.values()))


# Held-out problems, one or two of each domain. nano was trained on none of them.
TOY_EXAMPLES = (
    Example("A story", "Tell me a story in the forest with Mia, a purple wagon and a mouse."),
    Example(
        "A word problem",
        "Zoe has 43 dollars. She pays 7 dollars for toys. She gets 6 dollars from Eva. How many dollars does Zoe have "
        "now?",
    ),
    Example(
        "A Python function", "Create a Python function find(message) that returns message in lower case cut into words."
    ),
    Example("A fact", "Name the money of the country whose capital is Athens."),
    Example("Another story", "Make up a story: Max has a silver kite and meets a horse on the farm."),
)
# What a chat model of 135 million parameters does well enough: no arithmetic.
CHAT_EXAMPLES = (
    Example("Code", "Write a Python function that returns the larger of two numbers."),
    Example("Advice", "Give three tips for better sleep."),
    Example("A question", "Why is the sky blue?"),
    Example("An email", "Write a polite email that asks for a day off."),
    Example("A story", "Write a short story about a fox who finds a lantern."),
)
# What the bundled models were trained on: a visitor cannot guess it from their names.
_KNOWS = {"nano": "word problems, tiny Python functions, country and animal facts, short stories"}
_ABOUT_DRAFTS = (
    "SmolLM2, 135M parameters, with a draft adapter: AR's text, apart from rounding, in fewer forwards; in less time "
    "only where the verdict says so. For block diffusion, choose nano."
)


def openings(loaded: LaneModels) -> list[Opening]:
    """The openings of this server, at least one. The model that is coming is first."""
    model = loaded.get(loaded.names()[0])
    own = opening_of(model, loaded.names())
    return [own] if loaded.coming is None else [opening_of_drafts(), own]


def opening_of(model: LaneModel, loaded_names: Sequence[str] = ()) -> Opening:
    """The opening of a loaded model. loaded_names: its AR original is in the presets if it is one of them."""
    if model.name == OPENS_ON:
        return opening_of_drafts()
    ar_model = next((name for name in loaded_names if name == f"{model.name}-ar"), None)
    label = f"{model.name}: block diffusion"
    return Opening(model.name, label, about(model), TOY_EXAMPLES, presets(model, ar_model))


def opening_of_drafts() -> Opening:
    """The opening of SmolLM2 with its draft adapter. Needs no weights."""
    block_size = DraftSpec.read(bundled_adapters()[OPENS_ON], OPENS_ON).block_size
    label = "SmolLM2: self-speculation"
    return Opening(OPENS_ON, label, _ABOUT_DRAFTS, CHAT_EXAMPLES, draft_presets(OPENS_ON, block_size))


def about(model: LaneModel) -> str:
    """A model in one line."""
    size = model.parameters
    parameters = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.1f}M"
    knows = _KNOWS.get(model.name.removesuffix("-ar"))
    if knows is not None:
        return f"{model.name}, a toy of {parameters} parameters: {knows}."
    blocks = (
        "writes one token at a time only" if model.spec is None else f"trained for blocks of {model.spec.block_size}"
    )
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{model.name}, {parameters} parameters, {blocks}, {dtype} on {model.device}."
