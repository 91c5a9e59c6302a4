"""Decode block-diffusion language models: AR, block-diffusion and self-speculative, as one stream of events.

>>> import nbdiff_engine as nb
>>> model = nb.load("nano")
>>> nb.generate(model, "What is the capital of Peru?", strategy="self_speculative").text
"""

import os

# Set before torch is imported. By default its OpenMP threads spin while they wait: with another busy process on the
# machine, two spinning threads were measured 45 times slower than one. A value that the user has set is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import CheckpointError, NBDiffError, PromptError, SettingError, TraceError
from nbdiff_engine.generate import Output, generate, prepare, stream
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.model.description import CheckpointDescription, describe
from nbdiff_engine.model.spec import DiffusionSpec
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.trace.metrics import Metrics
from nbdiff_engine.trace.trace_file import Canvas, Trace
from nbdiff_engine.transformers_generate import custom_generate

__all__ = [
    "BlockModel",
    "Canvas",
    "CheckpointDescription",
    "CheckpointError",
    "DecodeSettings",
    "DiffusionSpec",
    "Metrics",
    "NBDiffError",
    "Output",
    "PromptError",
    "SettingError",
    "Trace",
    "TraceError",
    "bundled_models",
    "choose_threads",
    "custom_generate",
    "describe",
    "generate",
    "load",
    "prepare",
    "stream",
]
