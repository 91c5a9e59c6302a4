"""The choice between float32 and bfloat16 on a CPU."""

import pytest
import torch

from nbdiff_engine.model import cpu_arithmetic


@pytest.mark.parametrize(("bfloat16_seconds", "fast"), [(0.5, True), (1.9, True), (2.1, False), (6.0, False)])
def test_the_time_that_a_product_computes_decides(
    monkeypatch: pytest.MonkeyPatch, bfloat16_seconds: float, fast: bool
) -> None:
    now, slept = [0.0], [0.0]
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16_seconds}

    def product(left: torch.Tensor, right: torch.Tensor) -> None:
        assert torch.get_num_threads() == 1
        now[0] += seconds[left.dtype]
        slept[0] += 100.0  # another program ran meanwhile

    monkeypatch.setattr(cpu_arithmetic.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(cpu_arithmetic.time, "perf_counter", lambda: now[0] + slept[0])
    monkeypatch.setattr(torch.nn.functional, "linear", product)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert cpu_arithmetic.cpu_computes_bfloat16.__wrapped__() is fast
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
