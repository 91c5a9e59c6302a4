"""RoPE whose frequencies depend on the length of the text (LongRoPE, arXiv 2402.13753), fixed per row.

LongRoPE has two sets of frequencies: short ones for texts of at most the original context, long ones for longer texts.
transformers chooses one set per forward, by the largest position in it. Over a KV cache this is wrong: the first chunks
of a long prompt would be rotated by the short set, and a long row would change the rows beside it. Here each row has
one set, chosen by the length that it can reach (prompt and answer), for all its tokens.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nbdiff_engine.errors import CheckpointError

# A position of a row with the long set is given as position + LONG, so that a forward may hold rows of both kinds and
# nothing about the rows is kept in the network. No context is as long.
LONG = 1 << 30


class RowRope(nn.Module):
    """cos and sin of LongRoPE, per row from the short or the long frequencies."""

    def __init__(self, rotary: nn.Module, config: PreTrainedConfig):
        """rotary: the network's own module, whose short frequencies and scaling are used."""
        super().__init__()
        original = config.rope_parameters["original_max_position_embeddings"]
        long_E, _ = ROPE_INIT_FUNCTIONS["longrope"](config, rotary.inv_freq.device, seq_len=original + 1)
        self.rope_type = rotary.rope_type
        self.attention_scaling = rotary.attention_scaling
        self.register_buffer("inv_freq", rotary.original_inv_freq.clone(), persistent=False)
        self.register_buffer("long_inv_freq", long_E, persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, Q, E] in x's dtype. position_ids: [B, Q]; at least LONG in rows with the long set."""
        long = position_ids >= LONG
        position = (position_ids - long * LONG).float()[..., None]
        angle = torch.where(long[..., None], position * self.long_inv_freq.float(), position * self.inv_freq.float())
        angle = torch.cat((angle, angle), dim=-1)
        return (angle.cos() * self.attention_scaling).to(x.dtype), (angle.sin() * self.attention_scaling).to(x.dtype)


def original_length_of(config: PreTrainedConfig) -> int | None:
    """The longest text that has the short frequencies; None if the frequencies do not depend on the length."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else None


def fix_rope_per_row(network: PreTrainedModel, label: str) -> None:
    """Replace the network's LongRoPE by RowRope; does nothing to a network without LongRoPE.

    Raises CheckpointError for a network whose RoPE depends on the length and has another form.
    """
    config, body = network.config, network.base_model
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {each.get("rope_type") for each in rope.values() if isinstance(each, dict)}
    refused = CheckpointError(
        f"{label} is a {type(network).__name__} whose RoPE frequencies depend on the length of the text, "
        "in a form that this engine cannot fix per row; it decodes LongRoPE of Phi-3's form."
    )
    if kinds & {"longrope", "dynamic"}:  # a set of frequencies per kind of layer
        raise refused
    if original_length_of(config) is None:
        return
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None:
        raise refused
    with torch.inference_mode():
        x, positions = torch.ones(1, 3, 1), torch.tensor([[0, 1, 5]])
        x, positions = x.to(rotary.inv_freq.device), positions.to(rotary.inv_freq.device)
        expected = rotary(x, positions)
        fixed = RowRope(rotary, config)
        same = all(a.shape == b.shape and torch.allclose(a, b) for a, b in zip(expected, fixed(x, positions)))
    if not same:
        raise refused
    body.rotary_emb = fixed
