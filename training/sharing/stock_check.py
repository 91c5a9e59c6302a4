"""Whether a folder loads in plain transformers as an AR model with the logits of this engine: nothing of this project
and no remote code is used. vLLM and SGLang read the same files and choose their network by the same `architectures`.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import nbdiff_engine as nb
from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.description import CheckpointDescription
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.model.transformers_calls import quiet_transformers
from training.errors import RunError

_TEXT = "The train to Lima leaves at 9:15 from platform 3, and 12 of its 40 seats are free. def area(r): return 3 * r"
_MOST_TOKENS = 64
_FLOAT32_SHARE = 0.4  # of the free memory that a network in float32 may take; two are loaded, one after the other
# Largest difference of two logits, relative to the largest logit: rounding of the layers' sums.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, slots=True)
class StockCheck:
    """What the check found. difference: the largest between logits of both programs; largest: the largest logit."""

    architecture: str
    tokens: int
    difference: float
    largest: float
    dtype: str

    def __str__(self) -> str:
        return (
            f"loads in plain transformers as {self.architecture}; on {self.tokens} tokens its logits differ from this "
            f"engine's by at most {self.difference:.2g} (the largest is {self.largest:.3g}, {self.dtype})"
        )


def check_stock(folder: Path, label: str) -> StockCheck:
    """Load the folder with both programs and compare. label: its name in errors.

    Raises RunError, one sentence, if plain transformers cannot load it, misses or adds a tensor, or if its token ids or
    logits are not those of this engine.
    """
    described = nb.describe(folder)
    architecture = _architecture(folder, described, label)
    ids = _token_ids(folder, described.tokenizer, label)
    dtype = getattr(torch, described.saved_dtype)
    if described.parameters * 4 < _FLOAT32_SHARE * psutil.virtual_memory().available:
        dtype = torch.float32
    ours, theirs = _our_logits(described, ids, dtype), _stock_logits(folder, ids, dtype, label)
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    if not difference <= _TOLERANCE[dtype] * largest:
        raise RunError(
            f"{label} gives other logits in plain transformers than in this engine: they differ by {difference:.3g}, "
            f"where the largest is {largest:.3g}; nothing was exported. Please report this with the name of the model."
        )
    return StockCheck(architecture, len(ids), difference, largest, str(dtype).removeprefix("torch."))


def _architecture(folder: Path, described: CheckpointDescription, label: str) -> str:
    """The class that config.json names. Raises RunError if other programs could not load it, or not as AR."""
    spec, config = described.spec, read_json(folder)
    if spec is not None and not spec.commits_as_ar:
        raise RunError(
            f"{label} is no AR model: its committed tokens attend to each other in whole blocks, or its outputs are "
            "not shifted, so AR servers would decode it wrongly. Decode it with this engine."
        )
    named = config.get("architectures") or []
    stock = len(named) == 1 and hasattr(transformers, str(named[0])) and config.get("model_type") in CONFIG_MAPPING
    if not stock or "auto_map" in config:
        raise RunError(
            f"The config.json of {label} names the class {brief(named)} of the type {brief(config.get('model_type'))}, "
            "which is not one of transformers; other programs would need remote code."
        )
    if not (folder / "generation_config.json").is_file():
        raise RunError(f"{label} has no generation_config.json, so a server would not know where its answers end.")
    return str(named[0])


def _token_ids(folder: Path, ours: PreTrainedTokenizerBase | None, label: str) -> list[int]:
    try:
        with quiet_transformers():
            stock = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ids = stock(_TEXT)["input_ids"][:_MOST_TOKENS]
    except Exception as error:  # transformers may raise any exception for a tokenizer
        raise RunError(f"The tokenizer of {label} does not load in plain transformers: {_brief(error)}.") from error
    if ours is None or ids != ours(_TEXT)["input_ids"][:_MOST_TOKENS]:
        raise RunError(f"The tokenizer of {label} gives other token ids in plain transformers than in this engine.")
    return ids


@torch.inference_mode()
def _our_logits(described: CheckpointDescription, ids: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Float32 logits [N, V] of a prefill of this engine."""
    model = nb.load(described, dtype=str(dtype).removeprefix("torch."), device="cpu")
    return model.open(1, len(ids)).run([Pass(ids, 0, False, 1, range(len(ids)))]).clone()


@torch.inference_mode()
def _stock_logits(folder: Path, ids: list[int], dtype: torch.dtype, label: str) -> torch.Tensor:
    """Float32 logits [N, V] of plain transformers."""
    try:
        with quiet_transformers():
            network, loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        wrong = sorted(loaded["missing_keys"]) + sorted(loaded["unexpected_keys"])
        if not wrong:
            return network.eval()(torch.tensor([ids])).logits[0].float()
    except Exception as error:  # transformers may raise any exception here
        raise RunError(f"{label} does not load in plain transformers: {_brief(error)}.") from error
    raise RunError(f"{label} does not fit its class in plain transformers: {wrong[0]} is missing or not expected.")


def _brief(error: Exception) -> str:
    return brief_text(str(error).strip() or type(error).__name__, 160).rstrip(".")
