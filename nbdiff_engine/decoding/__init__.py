"""Decoding strategies: `ar`, `block_diffusion`, `self_speculative`, each a program for one row."""

from nbdiff_engine.decoding.loop import PROGRAMS, decode
from nbdiff_engine.decoding.plan import Plan, make_plan

__all__ = ["PROGRAMS", "Plan", "decode", "make_plan"]
