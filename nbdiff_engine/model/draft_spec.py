"""DraftSpec: what a draft adapter is, beside its PEFT files: its noise rows, and the base to which it belongs.

A draft adapter is a LoRA that is active at noise positions only, so the base's own logits never change (Apple, arXiv
2507.11851; Uno, arXiv 2609.04010). A draft pass is `[x_s ; n_1 ... n_(b-1)]`: the last final token as a clean row,
through the base, then noise rows, through base and LoRA. The output at x_s predicts the next token as AR does; the
output at n_j predicts the token j + 1 places after x_s.

The folder of an adapter has the two files of PEFT, `draft_adapter.json` (this module), and for MASK noise
`noise.safetensors` with the embedding of MASK, because the base has no such token.
"""

import hashlib
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn
from transformers import PreTrainedModel

from nbdiff_engine.errors import CheckpointError, first_problem
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.spec import MAX_BLOCK_SIZE, DiffusionSpec

DRAFT_SPEC = "draft_adapter.json"
NOISE_WEIGHTS = "noise.safetensors"
MASK_EMBEDDING = "mask_embedding"  # the tensor [D] of NOISE_WEIGHTS

_VALUES = 4096  # values per tensor that a fingerprint reads


class BaseIdentity(BaseModel):
    """Which checkpoint an adapter was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="bundled name, hub id or folder, as given to the training run")
    model_type: str = Field(min_length=1)
    parameters: int = Field(ge=1)
    fingerprint: str = Field(min_length=64, max_length=64, description="see `fingerprint_of`")


class DraftSpec(BaseModel):
    """The noise rows of a draft adapter, and its base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: Literal["mask", "uniform"] = Field(
        default="mask", description="what a noise row reads: a trained MASK embedding, or a random token"
    )
    noise_attention: Literal["bidirectional", "causal"] = Field(
        default="bidirectional", description="how the noise rows of one block see each other"
    )
    block_size: int = Field(
        default=8, ge=2, le=MAX_BLOCK_SIZE, description="rows of a draft pass: one clean, the others noise"
    )
    noise_high: int | None = Field(
        default=None, ge=2, description="uniform noise: the ids are drawn from 1 to noise_high - 1"
    )
    base: BaseIdentity

    @model_validator(mode="after")
    def _noise_has_its_range(self) -> Self:
        if (self.noise == "uniform") != (self.noise_high is not None):
            raise ValueError(
                f"noise is {self.noise} and noise_high is {self.noise_high}; uniform noise needs noise_high, and MASK "
                "noise has none"
            )
        return self

    @classmethod
    def read(cls, folder: Path, label: str) -> Self:
        """Read the spec from an adapter's folder. label: its name in messages. Raises CheckpointError."""
        try:
            return cls.model_validate(read_json(folder, DRAFT_SPEC))
        except ValidationError as error:
            raise CheckpointError(f"{DRAFT_SPEC} of {label} is not valid: {first_problem(error)}.") from error

    def diffusion_spec(self, vocabulary: int) -> DiffusionSpec:
        """How to decode the base with this adapter. The base has no MASK: its id is one past the vocabulary.

        vocabulary: rows of the base's embedding.
        """
        return DiffusionSpec(mask_token_id=vocabulary, block_size=self.block_size)

    def write(self, folder: Path) -> None:
        """Write the spec to an adapter's folder."""
        (folder / DRAFT_SPEC).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def is_draft_adapter(folder: Path) -> bool:
    """Whether the adapter of a folder is a draft adapter."""
    return (folder / DRAFT_SPEC).is_file()


def require_base(network: PreTrainedModel, base: BaseIdentity, label: str, base_label: str) -> None:
    """Raise CheckpointError, with the names of both bases, for an adapter of other weights.

    Compared are the model type, and for plain weights the number of parameters and the fingerprint. Weights that are
    quantised, offloaded, or in float16 (which has fewer exponents than the fingerprint's bfloat16) have none that can
    be compared. label, base_label: the names of the adapter and of the network.
    """
    found = network.config.model_type
    count = sum(each.numel() for each in network.parameters())
    weights = list(network.parameters())
    plain = all(each.dtype in (torch.float32, torch.bfloat16) and not each.is_meta for each in weights)
    if found != base.model_type or (plain and count != base.parameters):
        reason = f"it is a {found}" + (f" of {count:,} parameters" if plain else "")
    elif plain and fingerprint_of(network) != base.fingerprint:
        reason = "it has other weights"
    else:
        return
    raise CheckpointError(
        f"The draft adapter {label} belongs to {base.name}, a {base.model_type} of {base.parameters:,} parameters, and "
        f"not to {base_label}: {reason}. Load it with its own base."
    )


def fingerprint_of(network: nn.Module) -> str:
    """A SHA-256 over the names, shapes and at most 4,096 values of each parameter, in bfloat16.

    The same for a checkpoint in float32, in bfloat16 and read from a GGUF file with the same values; another one after
    any training step of all weights. network: plain weights, before adapters are added; quantised weights have no
    fingerprint that can be compared.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // _VALUES)
        values = flat[::step][:_VALUES].to(torch.bfloat16).contiguous().view(torch.int16).cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
