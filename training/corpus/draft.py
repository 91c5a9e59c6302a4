"""Draft: a problem with what decides its split, so that train and test share nothing by construction."""

import hashlib
from dataclasses import dataclass

from nbdiff_engine.tasks.problem import Problem

SPLITS = ("train", "test")
_ONE_IN = 20  # a twentieth of the space of every domain is for tests


@dataclass(frozen=True, slots=True)
class Draft:
    """`key` holds what a problem is about, and less than its prompt says: drafts of one prompt share their key."""

    key: str
    problem: Problem

    @property
    def split(self) -> str:
        """The only split that this problem may be in, whatever the seed and the index it was drawn with."""
        digest = hashlib.blake2b(f"{self.problem.domain}|{self.key}".encode(), digest_size=8).digest()
        return SPLITS[int.from_bytes(digest, "big") % _ONE_IN == 0]
