"""More rows for a network's vocabulary: for a MASK that is in no row of the base."""

import torch
from transformers import PreTrainedModel


def add_rows(network: PreTrainedModel, rows: int) -> None:
    """Grow the vocabulary to `rows`, in place. New rows of the embedding and of an untied head are the mean of the old
    rows."""
    before = network.get_input_embeddings().weight.shape[0]
    network.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            old, new = layer.weight[:before], layer.weight[before:]
            new.copy_(old.mean(dim=0, dtype=torch.float32))
