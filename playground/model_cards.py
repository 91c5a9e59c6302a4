"""The cards of the Models tab: each model that is on this machine, and how it is loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nbdiff_engine.model.outline import Outline
from playground.page_words import bytes_in_words
from playground.server.found_models import FoundModel
from playground.server.loaded_models import ModelFacts


@dataclass(frozen=True, slots=True)
class LoadedAs:
    """A model in memory. about: its precision, memory and settings in words."""

    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Card:
    """A model on the page. id: what the page sends; kind: what it can do; facts: its place and size, in words.

    loaded: how it is in memory. can_load: whether it is on this machine and not loaded as it is stored. why_not: why
    it cannot be used, or "".
    """

    id: str
    name: str
    kind: str
    facts: tuple[str, ...]
    loaded: tuple[LoadedAs, ...]
    can_load: bool
    can_adapt: bool
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cards(found: Sequence[FoundModel], loaded: Sequence[ModelFacts], trains: bool) -> list[Card]:
    """The loaded models first, in the order in which they were loaded, then the others.

    trains: whether the page starts training jobs.
    """
    by_source: dict[str, list[ModelFacts]] = {}
    for facts in loaded:
        by_source.setdefault(facts.source, []).append(facts)
    places = {str(each.source): each for each in found}
    shown = [
        _card(places[source], own, trains) if source in places else _unlisted(source, own, trains)
        for source, own in by_source.items()
    ]
    return [*shown, *(_card(each, [], trains) for source, each in places.items() if source not in by_source)]


def _card(model: FoundModel, loaded: Sequence[ModelFacts], trains: bool) -> Card:
    outline = model.outline
    return Card(
        id=model.id,
        name=model.name,
        kind=str(outline),
        facts=(model.place, *_sizes(outline)),
        loaded=tuple(map(_loaded, loaded)),
        can_load=not outline.problem and all(each.quantization is not None for each in loaded),
        can_adapt=trains and model.can_be_base,
        why_not=outline.problem,
    )


def _unlisted(source: str, loaded: Sequence[ModelFacts], trains: bool) -> Card:
    """A model that the operator or a visitor has named, and that no list contains."""
    first = loaded[0]
    kind = "AR only" if first.block_size is None else f"blocks of {first.block_size}"
    facts = (first.origin, parameters_in_words(first.parameters))
    return Card(source, first.name, kind, facts, tuple(map(_loaded, loaded)), can_load=False, can_adapt=trains)


def _loaded(facts: ModelFacts) -> LoadedAs:
    about = [
        facts.dtype,
        f"{bytes_in_words(facts.memory)} of memory",
        f"context of {facts.context_length:,} tokens",
        facts.about_blocks,
    ]
    return LoadedAs(facts.name, ", ".join([*about, *([] if facts.device == "cpu" else [f"on {facts.device}"])]))


def _sizes(outline: Outline) -> tuple[str, ...]:
    found = []
    if outline.parameters:
        found.append(parameters_in_words(outline.parameters))
    if outline.stored:
        found.append(f"{bytes_in_words(outline.stored)} on disk")
    return tuple(found)


def parameters_in_words(count: int) -> str:
    """A number of parameters, such as "134.5M parameters"."""
    if count < 1e6:
        return f"{count:,} parameters"
    return f"{count / 1e9:.2f}B parameters" if count >= 1e9 else f"{count / 1e6:.1f}M parameters"
