"""Problems of four domains (math, code, knowledge, story) and the checkers that judge answers to them.

>>> from nbdiff_engine.tasks import check, held_out
>>> problem = held_out("math", 1)[0]
>>> check(problem, problem.answer).correct
True
"""

from nbdiff_engine.tasks.checkers import Verdict, check
from nbdiff_engine.tasks.held_out import held_out
from nbdiff_engine.tasks.problem import DOMAINS, Problem

__all__ = ["DOMAINS", "Problem", "Verdict", "check", "held_out"]
