"""Whether an exception says that memory ran out. PyTorch has several ways to say it."""

import torch

# PyTorch raises a plain RuntimeError if its CPU allocator, the CUDA driver or cuBLAS is out of memory, so only the
# message can be checked.
_TEXTS = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this exception, without its causes, means that the memory is too small."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
