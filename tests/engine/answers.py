"""Prompts for the tiny models, and the parts of answers that tests compare."""

from dataclasses import replace

import nbdiff_engine as nb
from tests.tiny import prompt_ids

PROMPTS = [prompt_ids(length, seed=length) for length in (5, 12, 1, 31)]


def ids(model: nb.BlockModel, prompt, **settings):
    output = nb.generate(model, prompt, **settings)
    return [each.token_ids for each in output] if isinstance(output, list) else output.token_ids


def without_time(event):
    return replace(event, time=0.0)
