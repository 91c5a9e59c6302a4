"""The activation memory of a layer, against the tensors that autograd saves."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import MASK
from tests.training.packs import EOS, answer, packed
from training.model.adapters import add_adapters
from training.objective.attention_choice import use_attention
from training.objective.noising import Noising, noise
from training.objective.objective import Objective
from training.planning.layer_sizes import Layer
from training.recipe.recipe import Lora

SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 8, "num_key_value_heads": 2}
SHAPE |= {"head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512, "tie_word_embeddings": True}
RANK = 16


def saved_bytes(family, layers, dtype, lora, autocast, attention, batch) -> int:
    """Bytes of all tensors that autograd saves, without weights."""
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, num_hidden_layers=layers, **SHAPE), dtype=dtype
    )
    if lora:
        add_adapters(network, Lora(rank=RANK), MASK, 0)
    network.train()
    use_attention(network, attention, "cpu")
    weights = {each.untyped_storage().data_ptr() for each in network.parameters()}
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        Objective(network)(batch)
    return sum(each.untyped_storage().nbytes() for at, each in saved.items() if at not in weights)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("attention", ["documents", "dense"])
@pytest.mark.parametrize(
    ("dtype", "lora", "autocast"),
    [
        (torch.float32, False, False),
        (torch.float32, False, True),
        (torch.float32, True, False),
        (torch.float32, True, True),
        (torch.bfloat16, True, False),
        (torch.bfloat16, True, True),
    ],
)
def test_the_bytes_of_a_layer_are_those_that_autograd_saves(family, attention, dtype, lora, autocast):
    batch = noise(
        packed(answer(100, 300), length=400),
        Noising(16, MASK, ending_ids=frozenset([EOS])),
        torch.Generator().manual_seed(0),
    )
    one, two = (saved_bytes(family, layers, dtype, lora, autocast, attention, batch) for layers in (1, 2))
    with torch.device("meta"):
        config = AutoConfig.for_model(family, num_hidden_layers=1, **SHAPE)
        layer = Layer.of(AutoModelForCausalLM.from_config(config))
    copies = 2 * layer.matrices if autocast and dtype == torch.float32 else 0
    per_token = (two - one - copies) / batch.ids.numel()
    assert layer.kept(dtype.itemsize, autocast, RANK if lora else None, attention == "documents") == pytest.approx(
        per_token, rel=0.03
    )


def test_large_pieces_of_a_layer_are_not_counted():
    layer = Layer.of(
        AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", num_hidden_layers=1, **SHAPE), dtype=None)
    )
    kept = 100 * layer.kept(4, False, None, True)
    wide, hidden = 100 * 384 * 4, 100 * 128 * 4
    assert layer.in_pieces(wide, kept, 100, 4) == kept
    assert layer.in_pieces(wide - 1, kept, 100, 4) == kept - 4 * wide
    assert layer.in_pieces(hidden - 1, kept, 100, 4) == 0
