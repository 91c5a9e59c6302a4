"""Questions about countries, animals, elements and planets: of one fact, of two, and which has more legs.

A wording of a question is held out with its entity, never the fact itself. Of the questions that take two facts,
a kind with its entity is held out in all wordings, and each of its two facts is trained on its own.
"""

from random import Random

from nbdiff_engine.tasks.problem import Problem
from training.corpus.draft import Draft
from training.corpus.facts import LEG_ORDER
from training.corpus.questions import COMPOSED, MORE_LEGS, RELATIONS, Relation

_RELATION_NAMES = tuple(RELATIONS)
_ENTITIES = {name: tuple(relation.facts) for name, relation in RELATIONS.items()}
_WEIGHTS = tuple(len(entities) for entities in _ENTITIES.values())  # every fact is asked for equally often
_VALUES = {name: sorted(set(relation.facts.values())) for name, relation in RELATIONS.items()}
_COMPOSED_WEIGHTS = tuple(len(_ENTITIES[kind.first]) for kind in COMPOSED)
_LEGS = RELATIONS["legs"]
_ANIMALS = _ENTITIES["legs"]


def draw(rng: Random) -> Draft:
    """One fact for most of the questions; the others take two."""
    kind = rng.random()
    if kind < 0.74:
        return _single(rng)
    return _composed(rng) if kind < 0.92 else _more_legs(rng)


def _single(rng: Random) -> Draft:
    name = rng.choices(_RELATION_NAMES, _WEIGHTS)[0]
    relation = RELATIONS[name]
    entity = rng.choice(_ENTITIES[name])
    prompt = rng.choice(relation.asked).format(e=entity)
    value = relation.facts[entity]
    return Draft(prompt, Problem("knowledge", prompt, _told(relation, entity), _judged(name, value)))


def _composed(rng: Random) -> Draft:
    kind = rng.choices(COMPOSED, _COMPOSED_WEIGHTS)[0]
    first, second = RELATIONS[kind.first], RELATIONS[kind.second]
    entity = rng.choice(_ENTITIES[kind.first])
    between = first.facts[entity]
    value = second.facts[between]
    prompt = rng.choice(kind.asked).format(e=entity)
    told = _told(second, between)
    answer = f"{_told(first, entity)} {told[0].upper()}{told[1:]}"
    facts = _judged(kind.second, value)
    return Draft(f"{kind.second} of {kind.first} of {entity}", Problem("knowledge", prompt, answer, facts))


def _more_legs(rng: Random) -> Draft:
    one, other = rng.sample(_ANIMALS, 2)
    counts = [LEG_ORDER.index(_LEGS.facts[animal]) for animal in (one, other)]
    while counts[0] == counts[1]:
        other = rng.choice(_ANIMALS)
        counts[1] = LEG_ORDER.index(_LEGS.facts[other])
    more, fewer = (one, other) if counts[0] > counts[1] else (other, one)
    prompt = rng.choice(MORE_LEGS).format(e=one, f=other)
    answer = f"{_told(_LEGS, one)} {_told(_LEGS, other)} So {more} has more legs."
    # what the answer must say last; the counts before it name both animals
    facts = {"answer": f"{more} has more legs", "others": [f"{fewer} has more legs"]}
    return Draft(f"legs of {min(one, other)} and {max(one, other)}", Problem("knowledge", prompt, answer, facts))


def _told(relation: Relation, entity: str) -> str:
    value = relation.facts[entity]
    article = "an" if value[0] in "aeiou" else "a"
    return relation.told.format(e=entity, E=entity[0].upper() + entity[1:], v=value, a=article)


def _judged(relation: str, value: str) -> dict[str, object]:
    return {"answer": value, "others": [other for other in _VALUES[relation] if other != value]}
