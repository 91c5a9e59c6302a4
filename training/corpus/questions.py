"""Wordings of the questions and answers about facts. Slots: `{e}` is the entity, `{v}` the value of the fact.

`{E}` is the entity at the start of a sentence, `{a}` the article of the value, `{f}` a second entity to compare with.
"""

from dataclasses import dataclass

from training.corpus.facts import ANIMALS, COUNTRIES, ELEMENTS, PLANETS


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts of one kind. facts: entity to value. asked: wordings of the question. sentence: that of the answer."""

    facts: dict[str, str]
    asked: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Composed:
    """A question that needs two facts: the value of `first` is the entity of `second`."""

    first: str
    second: str
    asked: tuple[str, ...]


def _column(table: dict[str, tuple], place: int) -> dict[str, str]:
    return {entity: str(row[place]) for entity, row in table.items()}


def _reversed(facts: dict[str, str]) -> dict[str, str]:
    return {value: entity for entity, value in facts.items()}


def _with_article(entity: str) -> str:
    return ("an " if entity[0] in "aeiou" else "a ") + entity


def _creatures(place: int) -> dict[str, str]:
    return {_with_article(animal): str(row[place]) for animal, row in ANIMALS.items()}


_CAPITALS = _column(COUNTRIES, 0)
_SYMBOLS = _column(ELEMENTS, 0)

RELATIONS = {
    "capital": Relation(
        _CAPITALS,
        (
            "What is the capital of {e}?",
            "Which city is the capital of {e}?",
            "Name the capital of {e}.",
            "Tell me the capital city of {e}.",
            "{e} has which city as its capital?",
            "Do you know the capital of {e}?",
        ),
        "The capital of {e} is {v}.",
    ),
    "country": Relation(
        _reversed(_CAPITALS),
        (
            "{e} is the capital of which country?",
            "Which country has the capital {e}?",
            "Name the country whose capital is {e}.",
            "What country has {e} as its capital?",
            "Of which country is {e} the capital?",
            "Tell me the country with the capital {e}.",
        ),
        "{e} is the capital of {v}.",
    ),
    "continent": Relation(
        _column(COUNTRIES, 1),
        (
            "On which continent is {e}?",
            "Where in the world is {e}?",
            "Name the continent of {e}.",
            "Which continent does {e} belong to?",
            "What continent is {e} part of?",
            "Tell me the continent where {e} lies.",
        ),
        "{e} lies in {v}.",
    ),
    "language": Relation(
        _column(COUNTRIES, 2),
        (
            "What language do people speak in {e}?",
            "Which language is spoken in {e}?",
            "Name the main language of {e}.",
            "What is the main language of {e}?",
            "Tell me what people speak in {e}.",
            "Which language would you hear in {e}?",
        ),
        "The main language of {e} is {v}.",
    ),
    "currency": Relation(
        _column(COUNTRIES, 3),
        (
            "What is the currency of {e}?",
            "Which currency is used in {e}?",
            "Name the money of {e}.",
            "What money do people use in {e}?",
            "Tell me the currency of {e}.",
            "How do people pay in {e}?",
        ),
        "People in {e} pay with the {v}.",
    ),
    "class": Relation(
        _creatures(0),
        (
            "What kind of animal is {e}?",
            "Which class of animal is {e}?",
            "Name the class of animal that {e} belongs to.",
            "Tell me what kind of animal {e} is.",
            "To which group of animals does {e} belong?",
            "What sort of creature is {e}?",
        ),
        "{E} is {a} {v}.",
    ),
    "legs": Relation(
        _creatures(1),
        (
            "How many legs does {e} have?",
            "How many legs has {e} got?",
            "Tell me how many legs {e} has.",
            "What number of legs does {e} have?",
            "Name the number of legs of {e}.",
            "On how many legs does {e} stand?",
        ),
        "{E} has {v} legs.",
    ),
    "food": Relation(
        _creatures(2),
        (
            "What does {e} eat?",
            "What food does {e} like?",
            "Name the food of {e}.",
            "Tell me what {e} eats.",
            "Which food does {e} look for?",
            "What would you feed to {e}?",
        ),
        "{E} mostly eats {v}.",
    ),
    "home": Relation(
        _creatures(3),
        (
            "Where does {e} live?",
            "Where would you find {e}?",
            "Name the home of {e}.",
            "Tell me where {e} lives.",
            "In what kind of place does {e} live?",
            "What is the home of {e}?",
        ),
        "The home of {e} is the {v}.",
    ),
    "symbol": Relation(
        _SYMBOLS,
        (
            "What is the symbol of {e}?",
            "Which symbol stands for {e}?",
            "Name the chemical symbol of {e}.",
            "How do chemists write {e}?",
            "Tell me the symbol for {e}.",
            "What is {e} called in short?",
        ),
        "The symbol of {e} is {v}.",
    ),
    "element": Relation(
        _reversed(_SYMBOLS),
        (
            "Which element has the symbol {e}?",
            "{e} is the symbol of which element?",
            "Name the element with the symbol {e}.",
            "What element is written as {e}?",
            "For which element does {e} stand?",
            "Tell me the element called {e} in short.",
        ),
        "{e} is the symbol of {v}.",
    ),
    "number": Relation(
        _column(ELEMENTS, 1),
        (
            "What is the atomic number of {e}?",
            "Which atomic number does {e} have?",
            "Name the atomic number of {e}.",
            "How many protons does {e} have?",
            "Tell me the atomic number of {e}.",
            "What number does {e} have among the elements?",
        ),
        "The atomic number of {e} is {v}.",
    ),
    "place": Relation(
        dict(PLANETS),
        (
            "Which planet from the Sun is {e}?",
            "What place does {e} have from the Sun?",
            "Name the place of {e} among the planets.",
            "Tell me how far out {e} comes among the planets.",
            "Where does {e} stand among the planets?",
            "Counted from the Sun, which planet is {e}?",
        ),
        "{e} is the {v} planet from the Sun.",
    ),
    "planet": Relation(
        _reversed(PLANETS),
        (
            "Which planet is the {e} from the Sun?",
            "What is the {e} planet from the Sun?",
            "Name the {e} planet from the Sun.",
            "Tell me the {e} planet of the Sun.",
            "What is the name of the {e} planet?",
            "Counted from the Sun, what is the {e} planet?",
        ),
        "The {e} planet from the Sun is {v}.",
    ),
}
COMPOSED = (
    Composed(
        "country",
        "continent",
        (
            "On which continent is the city of {e}?",
            "{e} is the capital of a country. On which continent is it?",
            "Name the continent of the country whose capital is {e}.",
            "Which continent has the capital city {e}?",
            "Tell me the continent of the capital {e}.",
        ),
    ),
    Composed(
        "country",
        "language",
        (
            "What language do people speak in the city of {e}?",
            "{e} is the capital of a country. Which language is spoken there?",
            "Name the main language of the country whose capital is {e}.",
            "Which language goes with the capital city {e}?",
            "Tell me the language of the capital {e}.",
        ),
    ),
    Composed(
        "country",
        "currency",
        (
            "How do people pay in the city of {e}?",
            "{e} is the capital of a country. Which currency is used there?",
            "Name the money of the country whose capital is {e}.",
            "Which currency goes with the capital city {e}?",
            "Tell me the currency of the capital {e}.",
        ),
    ),
    Composed(
        "element",
        "number",
        (
            "What is the atomic number of the element with the symbol {e}?",
            "{e} stands for an element. Which atomic number does it have?",
            "Name the atomic number of the element written as {e}.",
            "How many protons does the element {e} have?",
            "Tell me the atomic number that goes with {e}.",
        ),
    ),
)
MORE_LEGS = (
    "Which has more legs, {e} or {f}?",
    "What has more legs: {e} or {f}?",
    "Name the one with more legs, {e} or {f}.",
    "Compare {e} and {f}. Which has more legs?",
    "Tell me who has more legs, {e} or {f}.",
)
