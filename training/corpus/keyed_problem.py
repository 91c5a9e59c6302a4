"""KeyedProblem: a problem with the key that decides its split, so that train and test cannot share a problem."""

import hashlib
from dataclasses import dataclass

from nbdiff_engine.tasks.problem import Problem

SPLITS = ("train", "test")
_TEST_FRACTION = 20  # one key in 20 of every domain belongs to the test split


def split_of(domain: str, key: str, one_in: int = _TEST_FRACTION) -> str:
    """The split of a subject: a hash of its domain and key, independent of seed and index. One in `one_in` is test."""
    digest = hashlib.blake2b(f"{domain}|{key}".encode(), digest_size=8).digest()
    return SPLITS[int.from_bytes(digest, "big") % one_in == 0]


@dataclass(frozen=True, slots=True)
class KeyedProblem:
    """`key` is the subject of the problem. It depends only on the prompt, so problems with the same prompt share it."""

    key: str
    problem: Problem

    @property
    def split(self) -> str:
        """The split of this problem, by its domain and key."""
        return split_of(self.problem.domain, self.key)
