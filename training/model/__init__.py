"""The network that is trained: loaded or new, with its MASK token, with or without LoRA."""
