"""DraftAdapter: the LoRA of a draft adapter, active at the noise rows of a forward only; the base is never changed.

y = W x + gate * scale * B (A x), where gate is 1 at noise rows and 0 at clean ones. The products with A and B are
computed for the noise rows alone, so clean rows cost nothing, and no bit of their values depends on the adapter.

In the layers of transformers the sum is a hook on each linear layer, which works over quantised layers too;
`fused_forward` adds it itself. Shape suffixes: G noise rows of a forward, R rank, D inputs, O outputs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model import packed_linear
from nbdiff_engine.model.draft_spec import DRAFT_SPEC, MASK_EMBEDDING, NOISE_WEIGHTS, DraftSpec
from nbdiff_engine.model.lora_folders import with_adapter
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.token_choice.noise import noise_key


@dataclass(frozen=True, slots=True)
class NoiseRows:
    """The noise rows of a forward, as indices into its rows x width tokens. masks: those that read MASK."""

    rows: slice | Tensor  # a slice where they are consecutive
    masks: Tensor | None
    tokens: int  # of the forward


# The noise rows of the forward that runs now, for the hooks.
_running: ContextVar[NoiseRows | None] = ContextVar("noise rows of this forward", default=None)


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one linear layer, or of several with concatenated outputs. b has the scale in it.

    packed_a, packed_b: the same once more, as `packed_linear` reads them.
    """

    a_RD: Tensor
    b_OR: Tensor
    packed_a: Tensor | None = None
    packed_b: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Self | None], outputs: Sequence[int]) -> Self | None:
        """The changes of several layers with the same input; outputs: of each. None if none of them is changed."""
        present = [each for each in parts if each is not None]
        if not present:
            return None
        zeros = [each.b_OR if each is not None else present[0].b_OR.new_zeros(o, 0) for each, o in zip(parts, outputs)]
        return cls(torch.cat([each.a_RD for each in present]), torch.block_diag(*zeros))

    def pack(self) -> Self:
        """The same, with its weights in oneDNN's layout too."""
        return replace(self, packed_a=packed_linear.packed(self.a_RD), packed_b=packed_linear.packed(self.b_OR))

    def add_to(self, y: Tensor, x: Tensor, noise: NoiseRows) -> Tensor:
        """`y`, the layer's output [..., O] for `x` [..., D], with the change added at the noise rows, in place.

        Raises ValueError for a layer that reads other rows than those of the forward, such as one of several experts.
        """
        flat_y, flat_x = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        if len(flat_x) != noise.tokens:
            raise ValueError(f"a layer with LoRA reads {len(flat_x)} rows of a forward of {noise.tokens}")
        x_GD = flat_x[noise.rows].to(self.a_RD.dtype)
        inner_GR = packed_linear.linear(x_GD, self.a_RD, self.packed_a, None)
        flat_y[noise.rows] += packed_linear.linear(inner_GR, self.b_OR, self.packed_b, None).to(y.dtype)
        return y


class DraftAdapter:
    """A draft adapter on the network of its base. `attach` makes the network's layers run it."""

    def __init__(self, spec: DraftSpec, mask_token_id: int, changes: dict[nn.Module, LowRank], mask_D: Tensor | None):
        """mask_token_id: marks an unknown token in a pass; no row of the embedding has this id. changes: by
        linear layer. mask_D: what the network reads for MASK, for MASK noise."""
        self.spec = spec
        self.mask_token_id = mask_token_id
        self.changes = changes
        self.mask_D = mask_D

    @classmethod
    def read(cls, network: PreTrainedModel, folder: Path, mask_token_id: int, label: str) -> Self:
        """The adapter of a folder, for a network that has been found to be its base (`draft_spec.require_base`).

        Raises CheckpointError for one that is damaged, or that changes more than the linear layers of the body.
        """
        spec = DraftSpec.read(folder, label)
        changes = _changes(network, folder, label)
        dtype, device = network.dtype, network.device
        changes = {
            layer: LowRank(each.a_RD.to(device, dtype), each.b_OR.to(device, dtype)) for layer, each in changes.items()
        }
        mask_D = None
        if spec.noise == "mask":
            mask_D = _mask_embedding(folder, network.get_input_embeddings().weight.shape[1], label).to(device, dtype)
        return cls(spec, mask_token_id, changes, mask_D)

    def attach(self, network: PreTrainedModel, linear: bool) -> None:
        """Add the hooks. linear: whether the linear layers get theirs; a fused forward adds the changes itself."""
        if linear:
            for layer, change in self.changes.items():
                layer.register_forward_hook(_hook_of(change))
        if self.mask_D is not None:
            network.get_input_embeddings().register_forward_hook(self._read_mask)

    def _read_mask(self, layer: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        noise = _running.get()
        if noise is not None and noise.masks is not None:
            embedded.view(-1, embedded.shape[-1])[noise.masks] = self.mask_D.to(embedded.dtype)
        return embedded

    def noise_rows(
        self, passes: Sequence[Pass], ids: list[list[int]], width: int, seeds: Sequence[int], device: torch.device
    ) -> NoiseRows | None:
        """The noise rows of a forward of `width` tokens for each pass; None if it has none. In `ids`, the tokens of the
        passes, replaces the unknown ones: by id 0 for MASK, whose embedding is not read, or by random ids. seeds: of
        the random ids of each pass."""
        rows: list[int] = []
        masks: list[int] = []
        for number, (each, own) in enumerate(zip(passes, ids, strict=True)):
            if not each.groups:
                continue
            offsets = each.offsets
            for index in range(each.first_noise, len(own)):
                rows.append(number * width + index)
                if own[index] != self.mask_token_id:
                    continue
                own[index] = 0
                if self.spec.noise == "uniform":
                    own[index] = random_id(seeds[number], each.start + offsets[index], self.spec.noise_high)
                else:
                    masks.append(rows[-1])
        if not rows:
            return None
        whole = rows[-1] + 1 - rows[0] == len(rows)
        return NoiseRows(
            slice(rows[0], rows[-1] + 1) if whole else torch.tensor(rows, device=device),
            torch.tensor(masks, device=device) if masks else None,
            len(passes) * width,
        )


@contextmanager
def running(noise: NoiseRows | None) -> Iterator[None]:
    """Within it, the hooks act on these noise rows."""
    token = _running.set(noise)
    try:
        yield
    finally:
        _running.reset(token)


def random_id(seed: int, position: int, high: int) -> int:
    """Uniform noise at a sequence position: an id from 1 to high - 1. A pure function, the same in every batch."""
    return 1 + noise_key(seed, 0, position) % (high - 1)


def _hook_of(change: LowRank):
    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        noise = _running.get()
        return output if noise is None else change.add_to(output, inputs[0], noise)

    return add


def _changes(network: PreTrainedModel, folder: Path, label: str) -> dict[nn.Module, LowRank]:
    """The change of each linear layer, float32. The network is as before afterwards."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    outer = (network.get_input_embeddings(), network.get_output_embeddings())
    adapted = with_adapter(network, folder, label)
    found: dict[nn.Module, LowRank] = {}
    refused: list[str] = []
    for name, layer in adapted.named_modules():
        if isinstance(layer, AuxiliaryTrainingWrapper):
            refused.append(name)
        if not isinstance(layer, LoraLayer):
            continue
        (key,) = layer.lora_B.keys() or [None]
        base = layer.get_base_layer()
        plain = key is not None and not layer.use_dora.get(key) and layer.lora_B[key].bias is None
        if not plain or any(base is each for each in outer):
            refused.append(name)
            continue
        a, b = layer.lora_A[key].weight.detach().float(), layer.lora_B[key].weight.detach().float()
        found[base] = LowRank(a, b * layer.scaling[key])
    adapted.unload()
    if refused:
        raise CheckpointError(
            f"The draft adapter {label} changes {refused[0].removeprefix('base_model.model.')} by more than a plain "
            "LoRA of a linear layer of the body; such an adapter cannot be limited to noise rows."
        )
    return found


def _mask_embedding(folder: Path, size: int, label: str) -> Tensor:
    try:
        found = load_file(folder / NOISE_WEIGHTS)[MASK_EMBEDDING]
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"The draft adapter {label} has MASK noise ({DRAFT_SPEC}), and its {NOISE_WEIGHTS} cannot be read or holds "
            f"no {MASK_EMBEDDING}; the adapter is damaged."
        ) from error
    except Exception as error:  # safetensors has its own exception type for a damaged file
        raise CheckpointError(f"The {NOISE_WEIGHTS} of the draft adapter {label} is damaged.") from error
    if found.shape != (size,):
        raise CheckpointError(
            f"The {MASK_EMBEDDING} of the draft adapter {label} has the shape {list(found.shape)}; its base reads "
            f"vectors of {size} values."
        )
    return found
