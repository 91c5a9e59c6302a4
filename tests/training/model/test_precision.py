"""The arithmetic of a run follows what its device computes fast."""

import pytest

from tests.training.runs import small_recipe
from training.model.precision import loads_float32, with_precision


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_follows_the_cpu(monkeypatch, fast, chosen):
    monkeypatch.setattr("training.model.precision.cpu_computes_bfloat16", lambda: fast)
    assert with_precision(small_recipe("base", "data", precision="auto"), "cpu").precision == chosen
    for given in ("bf16", "fp32"):
        assert with_precision(small_recipe("base", "data", precision=given), "cpu").precision == given


def test_cuda_that_is_not_here_computes_bfloat16(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert with_precision(small_recipe("base", "data", precision="auto"), "cuda").precision == "bf16"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"precision": "bf16"}, True),  # all weights are trained
        ({"lora": {"rank": 4}}, True),  # float32 arithmetic
        ({"lora": {"rank": 4}, "precision": "bf16"}, False),
        ({"lora": {"rank": 4}, "quantization": "4bit"}, False),
    ],
)
def test_frozen_weights_are_widened_only_for_float32_arithmetic(settings, expected):
    assert loads_float32(small_recipe("base", "data", **settings)) is expected
