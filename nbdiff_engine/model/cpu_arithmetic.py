"""Whether this CPU computes bfloat16 at a useful speed. It is measured: the instructions have many names."""

import time
from functools import cache

import torch

_ROWS, _SIZE = 64, 1024  # about a small model's layer over a few blocks: 4 ms in float32 on one thread
_TRIALS = 3
_SLOWER = 2.0  # half the bytes make up for a product that takes up to twice as long in passes of few tokens


@cache
def cpu_computes_bfloat16() -> bool:
    """Whether a bfloat16 product takes less than twice as long as the same product in float32.

    CPUs without bfloat16 instructions convert every value: products then take about six times as long (measured on an
    AVX2 processor). Takes 0.1 s on these, once per process.
    """
    threads = torch.get_num_threads()
    # One thread, and the time that it computes: on a busy machine the time by the clock is mostly that of other
    # programs, or of waiting for other threads, and both products seem equally slow.
    torch.set_num_threads(1)
    try:
        seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
        for _ in range(_TRIALS):
            for dtype in seconds:
                left, right = torch.ones(_ROWS, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype)
                started = time.thread_time()
                torch.nn.functional.linear(left, right)
                seconds[dtype] = min(seconds[dtype], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.bfloat16] < _SLOWER * seconds[torch.float32]
