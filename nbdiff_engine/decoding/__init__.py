"""Decoding strategies: `ar`, `block_diffusion`, `self_speculative`, each a program for one row."""

from nbdiff_engine.decoding.loop import PROGRAMS, decode
from nbdiff_engine.decoding.plan import Plan, make_plan
from nbdiff_engine.decoding.start import Start, check_start

__all__ = ["PROGRAMS", "Plan", "Start", "check_start", "decode", "make_plan"]
