"""Questions about countries, animals, elements and planets: about one fact, about two, and which animal has more legs.

For questions about one fact, the test split contains pairs of a wording and an entity; other wordings of the same fact
are in the train split. For questions about two facts, the test split contains all wordings of a kind and an entity;
each of the two facts is in the train split by itself.
"""

from random import Random

from nbdiff_engine.tasks.problem import Problem
from training.corpus.facts import LEG_ORDER
from training.corpus.keyed_problem import KeyedProblem
from training.corpus.questions import COMPOSED, MORE_LEGS, RELATIONS, Relation

_RELATION_NAMES = tuple(RELATIONS)
_ENTITIES = {name: tuple(relation.facts) for name, relation in RELATIONS.items()}
_WEIGHTS = tuple(len(entities) for entities in _ENTITIES.values())  # all facts are equally frequent
_VALUES = {name: sorted(set(relation.facts.values())) for name, relation in RELATIONS.items()}
_COMPOSED_WEIGHTS = tuple(len(_ENTITIES[kind.first]) for kind in COMPOSED)
_LEGS = RELATIONS["legs"]
_ANIMALS = _ENTITIES["legs"]


def draw(rng: Random) -> KeyedProblem:
    """Draw a question. Most questions need one fact, the others two."""
    kind = rng.random()
    if kind < 0.74:
        return _single(rng)
    return _composed(rng) if kind < 0.92 else _more_legs(rng)


def _single(rng: Random) -> KeyedProblem:
    name = rng.choices(_RELATION_NAMES, _WEIGHTS)[0]
    relation = RELATIONS[name]
    entity = rng.choice(_ENTITIES[name])
    prompt = rng.choice(relation.asked).format(e=entity)
    value = relation.facts[entity]
    return KeyedProblem(prompt, Problem("knowledge", prompt, _sentence(relation, entity), _checker_facts(name, value)))


def _composed(rng: Random) -> KeyedProblem:
    kind = rng.choices(COMPOSED, _COMPOSED_WEIGHTS)[0]
    first, second = RELATIONS[kind.first], RELATIONS[kind.second]
    entity = rng.choice(_ENTITIES[kind.first])
    between = first.facts[entity]
    value = second.facts[between]
    prompt = rng.choice(kind.asked).format(e=entity)
    sentence = _sentence(second, between)
    answer = f"{_sentence(first, entity)} {sentence[0].upper()}{sentence[1:]}"
    facts = _checker_facts(kind.second, value)
    return KeyedProblem(f"{kind.second} of {kind.first} of {entity}", Problem("knowledge", prompt, answer, facts))


def _more_legs(rng: Random) -> KeyedProblem:
    one, other = rng.sample(_ANIMALS, 2)
    counts = [LEG_ORDER.index(_LEGS.facts[animal]) for animal in (one, other)]
    while counts[0] == counts[1]:
        other = rng.choice(_ANIMALS)
        counts[1] = LEG_ORDER.index(_LEGS.facts[other])
    more, fewer = (one, other) if counts[0] > counts[1] else (other, one)
    prompt = rng.choice(MORE_LEGS).format(e=one, f=other)
    answer = f"{_sentence(_LEGS, one)} {_sentence(_LEGS, other)} So {more} has more legs."
    # only the last sentence of the answer is checked, because the first two name both animals
    facts = {"answer": f"{more} has more legs", "others": [f"{fewer} has more legs"]}
    return KeyedProblem(f"legs of {min(one, other)} and {max(one, other)}", Problem("knowledge", prompt, answer, facts))


def _sentence(relation: Relation, entity: str) -> str:
    value = relation.facts[entity]
    article = "an" if value[0] in "aeiou" else "a"
    return relation.sentence.format(e=entity, E=entity[0].upper() + entity[1:], v=value, a=article)


def _checker_facts(relation: str, value: str) -> dict[str, object]:
    return {"answer": value, "others": [other for other in _VALUES[relation] if other != value]}
