"""The objective: L = L_MDM + lambda * L_AR on one forward of `[noised ; clean]` (NBDiff, Eq. 1, 2 and 5).

L_MDM is the cross-entropy at masked tokens, without a 1/t weight; L_AR the next-token cross-entropy of the clean half.
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

CHUNK_LOGITS = 2**24  # logits in memory at once: 64 MB in float32


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a batch, not yet divided by the step's target count."""

    mdm_sum: Tensor
    ar_sum: Tensor
    mdm_count: int  # masked tokens scored
    ar_count: int

    def total(self, ar_weight: float) -> Tensor:
        """The sum whose gradient is taken. ar_weight: lambda."""
        return self.mdm_sum + ar_weight * self.ar_sum

    def numbers(self) -> Tensor:
        """The four fields in order, float64 [4] on the CPU, for summation over batches and processes."""
        figures = [self.mdm_sum.item(), self.ar_sum.item(), self.mdm_count, self.ar_count]
        return torch.tensor(figures, dtype=torch.float64)


class Objective(nn.Module):
    """A causal LM with the two losses of its adaptation. Distributed training wraps this module."""

    SUMS = 4  # of Losses.numbers

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
        mdm_sum, mdm_count = self.cross_entropy(hidden_BSD[:, :noised], batch.mdm_targets)
        ar_sum, ar_count = self.cross_entropy(hidden_BSD[:, noised:], batch.ar_targets)
        return Losses(mdm_sum, ar_sum, mdm_count, ar_count)

    def step_losses(self, sums: list[float], count: float, ar_weight: float) -> StepLosses:
        """The mean losses of a step. sums: of `Losses.numbers`; count: the step's target count."""
        mdm_sum, ar_sum, masked, _ = sums
        return StepLosses((mdm_sum + ar_weight * ar_sum) / count, mdm_sum / count, ar_sum / count, int(masked))

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
        found = []
        for own, half in ((batch.mdm_targets, slice(noised)), (batch.ar_targets, slice(noised, None))):
            targets.fill_(IGNORED)[:, half] = own
            found.append(self.cross_entropy(hidden_1TD, targets[there][None]))
        (mdm_sum, mdm_count), (ar_sum, ar_count) = found
        return Losses(mdm_sum, ar_sum, mdm_count, ar_count)

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

    def cross_entropy(self, hidden_BND: Tensor, targets_BN: Tensor) -> tuple[Tensor, int]:
        """Summed cross-entropy at the positions that have a target, and the number of these positions.

        The head is computed only for these positions, in chunks, and again in the backward pass. The logits of all
        positions would be by far the largest tensor of a training step.
        """
        scored = targets_BN != IGNORED
        hidden_TD, targets_T = hidden_BND[scored], targets_BN[scored]
        head = self.network.get_output_embeddings()
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        step = max(1, CHUNK_LOGITS // self.vocab_size)
        for first in range(0, len(targets_T), step):
            part = (head, hidden_TD[first : first + step], targets_T[first : first + step], self.logit_scale)
            total = total + checkpoint(_chunk_loss, *part, use_reentrant=False)
        if len(targets_T) == 0:  # depends on the weights: a distributed backward needs a gradient
            total = total + 0.0 * hidden_BND.sum()
        return total, len(targets_T)


def _chunk_loss(head: nn.Module, hidden_TD: Tensor, targets_T: Tensor, logit_scale: float) -> Tensor:
    logits_TV = head(hidden_TD).float()
    return F.cross_entropy(logits_TV if logit_scale == 1 else logits_TV * logit_scale, targets_T, reduction="sum")
