"""The head: float32 logits, the same with and without a float32 copy of the weights."""

import pytest
import torch
from torch import nn

from nbdiff_engine.model.head import Head


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_without_a_copy_gives_the_same_logits(bias):
    torch.manual_seed(0)
    layer = nn.Linear(32, 9000, bias=bias).to(torch.bfloat16)
    hidden = torch.randn(5, 32, dtype=torch.bfloat16)
    copied, shared = Head(layer), Head(layer, copy_limit=0)
    assert copied(hidden).dtype == torch.float32
    assert torch.equal(copied(hidden), shared(hidden))


def test_a_large_head_is_not_copied_and_a_float32_head_never_is():
    large, wide = nn.Linear(32, 9000).to(torch.bfloat16), nn.Linear(32, 9000)
    assert Head(large, copy_limit=0)._weight_VD.data_ptr() == large.weight.data_ptr()
    assert Head(wide)._weight_VD.data_ptr() == wide.weight.data_ptr()
