"""The objective: L = L_MDM + lambda * L_AR on one forward of `[noised ; clean]` (NBDiff, Eq. 1, 2 and 5).

L_MDM is the cross-entropy at masked tokens, without a 1/t weight (only EOS that fills a short answer's last block has a
weight below 1, see `noising`); L_AR the next-token cross-entropy of the clean half.
Both sums are divided by the same count, the clean target tokens of the whole step. As E[t] = 1/2, L_MDM has about half
as many terms; with the paper's lambda of 0.5 both losses have the same weight.

Shape suffixes: B rows, N noised tokens, L clean tokens, T scored positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from nbdiff_engine.model.attention import Context, additive, dense_mask, flex_mask
from nbdiff_engine.model.families import logit_scale_of
from training.objective.attention_plan import plan_of, present
from training.objective.document_attention import DOCUMENTS
from training.objective.noising import IGNORED, Batch
from training.objective.step_losses import StepLosses

# The float32 logits of one chunk. With the log-probabilities and the gradients of both, a backward pass needs about
# four times this much; the weights of the head are read once per chunk, so smaller chunks take longer.
CHUNK_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a batch, not yet divided by the step's target count."""

    mdm_sum: Tensor  # weighted
    ar_sum: Tensor
    mdm_count: int  # masked tokens scored
    ar_count: int
    mdm_weight: float  # sum of the weights of the masked tokens
    end_count: int  # masked tokens that end an answer, fill included

    def total(self, ar_weight: float) -> Tensor:
        """The sum whose gradient is taken. ar_weight: lambda."""
        return self.mdm_sum + ar_weight * self.ar_sum

    def numbers(self) -> Tensor:
        """The six fields in order, float64 [6] on the CPU, for summation over batches and processes."""
        sums = self.mdm_sum.item(), self.ar_sum.item()
        counts = self.mdm_count, self.ar_count, self.mdm_weight, self.end_count
        return torch.tensor([*sums, *counts], dtype=torch.float64)


class Objective(nn.Module):
    """A causal LM with the two losses of its adaptation. Distributed training wraps this module."""

    SUMS = 6  # of Losses.numbers

    def __init__(self, network: PreTrainedModel, context: Context = "token_causal"):
        super().__init__()
        self.network = network
        self.context = context
        self.body = network.base_model  # compiled in place if the recipe says so
        self.dtype = network.dtype
        self.vocab_size = network.config.get_text_config().vocab_size
        self.logit_scale = logit_scale_of(network.config)

    def forward(self, batch: Batch, open_future: Tensor | None = None) -> Losses:
        """The summed losses of a batch.

        open_future: bool [B, N + L], the keys that earlier noised tokens of the same block can attend to; None: all
            (NBDiff). The mask-annealing ablation opens them gradually.
        """
        if self.network.config._attn_implementation == DOCUMENTS:
            return self.end_to_end(batch, open_future)
        hidden_BSD = self.body(
            input_ids=batch.ids,
            attention_mask=self.mask(batch, open_future),
            position_ids=batch.tokens.position,
            use_cache=False,
        ).last_hidden_state
        noised = batch.mdm_targets.shape[1]
        mdm = self.cross_entropy(hidden_BSD[:, :noised], batch.mdm_targets, batch.mdm_weights)
        ar = self.cross_entropy(hidden_BSD[:, noised:], batch.ar_targets)
        return _losses(mdm, ar, batch)

    def step_losses(self, sums: list[float], count: float, ar_weight: float) -> StepLosses:
        """The mean losses of a step. sums: of `Losses.numbers`; count: the step's target count."""
        mdm_sum, ar_sum, masked, _, _, ends = sums
        share = ends / masked if masked else None
        return StepLosses(
            (mdm_sum + ar_weight * ar_sum) / count, mdm_sum / count, ar_sum / count, int(masked), eos_share=share
        )

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: each for name, each in self.network.named_parameters() if each.requires_grad}

    def end_to_end(self, batch: Batch, open_future: Tensor | None) -> Losses:
        """The same losses, from one row with the tokens of all rows, without padding."""
        there = present(batch.tokens)
        hidden_1TD = self.body(
            input_ids=batch.ids[there][None],
            position_ids=batch.tokens.position[there][None],
            plan=plan_of(batch.tokens, there, self.context, open_future),
            use_cache=False,
        ).last_hidden_state
        noised = batch.mdm_targets.shape[1]
        targets = torch.full_like(batch.ids, IGNORED)
        weights = None
        if batch.mdm_weights is not None:
            weights = F.pad(batch.mdm_weights, (0, batch.ids.shape[1] - noised))[there][None]
        found = []
        for own, half, weighted in (
            (batch.mdm_targets, slice(noised), weights),
            (batch.ar_targets, slice(noised, None), None),
        ):
            targets.fill_(IGNORED)[:, half] = own
            found.append(self.cross_entropy(hidden_1TD, targets[there][None], weighted))
        return _losses(*found, batch)

    def mask(self, batch: Batch, open_future: Tensor | None):
        """The attention mask, in the form that the network's attention implementation needs."""
        if self.network.config._attn_implementation == "flex_attention":
            return flex_mask(batch.tokens, batch.tokens, self.context, open_future)
        mask = dense_mask(batch.tokens, batch.tokens, self.context, open_future)
        # Padding attends to nothing; its softmax would be 0/0, and the NaN would spread to the gradients.
        mask |= torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
        # Converted to an additive mask once: SDPA would convert a boolean mask in every layer and save each result.
        kind = mask.device.type
        return additive(mask, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype)

    def cross_entropy(
        self, hidden_BND: Tensor, targets_BN: Tensor, weights_BN: Tensor | None = None
    ) -> tuple[Tensor, int, float]:
        """Summed cross-entropy at the positions that have a target, their number, and the sum of their weights.

        weights_BN: the weight of each position in the sum; None: all are 1.

        The head is computed only for these positions, in chunks, and again in the backward pass. The logits of all
        positions would be by far the largest tensor of a training step.
        """
        scored = targets_BN != IGNORED
        hidden_TD, targets_T = hidden_BND[scored], targets_BN[scored]
        weights_T = None if weights_BN is None else weights_BN[scored]
        head = self.network.get_output_embeddings()
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        step = chunk_rows(self.vocab_size)
        for first in range(0, len(targets_T), step):
            chunk = slice(first, first + step)
            weights = None if weights_T is None else weights_T[chunk]
            part = (head, hidden_TD[chunk], targets_T[chunk], weights, self.logit_scale)
            total = total + checkpoint(_chunk_loss, *part, use_reentrant=False)
        if len(targets_T) == 0:  # depends on the weights: a distributed backward needs a gradient
            total = total + 0.0 * hidden_BND.sum()
        return total, len(targets_T), len(targets_T) if weights_T is None else weights_T.sum().item()


def chunk_rows(vocab_size: int) -> int:
    """Positions whose logits are in memory at once: as many as fit in CHUNK_BYTES, at least one."""
    return max(1, CHUNK_BYTES // (4 * vocab_size))


def _losses(mdm: tuple[Tensor, int, float], ar: tuple[Tensor, int, float], batch: Batch) -> Losses:
    return Losses(mdm[0], ar[0], mdm[1], ar[1], mdm[2], batch.end_count)


def _chunk_loss(
    head: nn.Module, hidden_TD: Tensor, targets_T: Tensor, weights_T: Tensor | None, logit_scale: float
) -> Tensor:
    logits_TV = head(hidden_TD).float()
    if logit_scale != 1:
        logits_TV = logits_TV * logit_scale
    if weights_T is None:
        return F.cross_entropy(logits_TV, targets_T, reduction="sum")
    return F.cross_entropy(logits_TV, targets_T, reduction="none") @ weights_T
