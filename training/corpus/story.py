"""Stories of five sentences about a place, trouble with a thing, an animal, its help, and an end set by a colour."""

from random import Random

from nbdiff_engine.tasks.problem import Problem
from training.corpus.keyed_problem import KeyedProblem
from training.corpus.people import NAMES, pronouns
from training.corpus.plots import ANIMALS, COLOURS, PLACES, THINGS, WORDINGS

_ANIMALS, _COLOURS, _PLACES, _THINGS = (tuple(table) for table in (ANIMALS, COLOURS, PLACES, THINGS))
_ON = {"beach", "mountain", "farm", "island"}
_AT = {"market", "river", "castle"}


def draw(rng: Random) -> KeyedProblem:
    """Draw a story about a person, an animal, a coloured thing and a place."""
    name, animal = rng.choice(NAMES), rng.choice(_ANIMALS)
    colour, thing, place = rng.choice(_COLOURS), rng.choice(_THINGS), rng.choice(_PLACES)
    asked, (opening, trouble, rescue) = rng.choice(WORDINGS)
    preposition = "on" if place in _ON else "at" if place in _AT else "in"
    slots = {
        "name": name,
        "animal": animal,
        "an": "an" if animal == "owl" else "a",
        "a": "an" if colour == "orange" else "a",
        "colour": colour,
        "thing": thing,
        "where": f"{preposition} the {place}",
        "trouble": THINGS[thing][0],
        "rescue": THINGS[thing][1],
        **pronouns(name),
    }
    slots["His"] = slots["his"].capitalize()
    sentences = (opening + PLACES[place], trouble, ANIMALS[animal], rescue, COLOURS[colour])
    answer = " ".join(sentences).format(**slots)
    facts = {"must": [name, animal, f"{colour} {thing}"]}
    # the wording is not part of the key, so a combination of person, animal, thing and place is in only one split
    return KeyedProblem(
        f"{name} {animal} {colour} {thing} {place}", Problem("story", asked.format(**slots), answer, facts)
    )
