"""Packed weights: the same products, and only where they are supported."""

import pytest
import torch
from torch.nn import functional as F

from nbdiff_engine.model import packed_linear
from tests.tiny import tiny_model

WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "head_dim": 64}
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_the_product_is_that_of_a_linear_layer(rows, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(1024, 600, generator=generator), torch.randn(1024, generator=generator)
    x = torch.randn(1, rows, 600, generator=generator)
    weight, bias, x = (each.to(dtype) for each in (weight, bias, x))
    if not packed_linear.can_pack([weight]):
        pytest.skip("this CPU does not compute bfloat16")
    packed = packed_linear.packed(weight)
    for shift in (None, bias):
        expected = F.linear(x.double(), weight.double(), None if shift is None else shift.double()).float()
        found = packed_linear.linear(x, weight, packed, shift)
        narrow = {"rtol": 2**-8, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 2e-4}
        torch.testing.assert_close(found.float(), expected, **narrow)


def test_small_half_precision_and_very_large_weights_are_not_packed():
    assert packed_linear.packed(torch.zeros(8, 8)) is None
    assert not packed_linear.can_pack([torch.zeros(2, 2, dtype=torch.float16)])
    assert not packed_linear.can_pack([torch.zeros(2, 2), torch.zeros(2, 2, device="meta")])
    large = torch.zeros(1).expand(packed_linear.PACK_LIMIT // 8, 4)
    assert not packed_linear.can_pack([large])


@needs_onednn
def test_a_network_with_packed_weights_has_the_logits_of_the_stock_one(monkeypatch):
    monkeypatch.setattr(packed_linear, "SMALLEST", 1)
    model = tiny_model("qwen3", fused=True, vocab_size=4096, **WIDE)
    stock = tiny_model("qwen3", vocab_size=4096, **WIDE)
    assert all(each.packed is not None for layer in model._fused.layers for each in (layer.qkv, layer.out, layer.down))
    ids = list(range(2, 40))
    found, expected = (_logits(each, ids) for each in (model, stock))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def _logits(model, ids):
    session = model.open(1, 64)
    session.prefill([ids[:20]])
    return session.commit([ids[20:]])
