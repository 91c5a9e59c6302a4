"""What a run costs: the memory of a process, and the operations of a step."""

from dataclasses import dataclass

MEMORY_MARGIN = 0.3  # relative error that the estimate of a peak may have on a CPU; tests measure it


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process in bytes."""

    weights: int
    weight_copies: int  # weights cast to the arithmetic's precision, saved for the backward pass
    gradients: int
    optimizer: int
    activations: int
    mask: int
    head: int  # logits of one chunk, and temporaries of the head
    exchange: int  # gradient buckets of DDP, or gathered weights and their gradients of FSDP2
    allocator: int  # freed memory that the CPU allocator does not return
    program: int  # Python and its libraries; 0 for the memory of a GPU
    peak: int  # without `program`

    @property
    def process(self) -> int:
        """The peak of the whole process on a CPU; on a GPU the peak of the GPU's memory."""
        return self.peak + self.program


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one optimiser step of one process."""

    layers: int
    attention: int
    head: int
    recomputed: int

    @property
    def total(self) -> int:
        return self.layers + self.attention + self.head + self.recomputed
