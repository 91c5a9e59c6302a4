"""Names and pronouns that the problems of several domains share."""

from random import Random

GIRLS = ("Mia", "Ann", "Eva", "Ida", "Zoe", "Ella", "Lily", "Ruth")
BOYS = ("Ben", "Tom", "Leo", "Sam", "Max", "Tim", "Noah", "Omar")
NAMES = GIRLS + BOYS

_SHE = {"He": "She", "he": "she", "him": "her", "his": "her"}
_HE = {"He": "He", "he": "he", "him": "him", "his": "his"}


def pronouns(name: str) -> dict[str, str]:
    """The pronouns of a text about this person."""
    return _SHE if name in GIRLS else _HE


def two_people(rng: Random) -> dict[str, str]:
    """Slots of a text in which `name` meets `other`, with the pronouns of `name`."""
    name, other = rng.sample(NAMES, 2)
    return {"name": name, "other": other, **pronouns(name)}
