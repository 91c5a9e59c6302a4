"""The objective of a draft adapter: noise rows learn what the frozen base writes next.

A step has two passes of the network. The clean pass runs the base alone, without gradient; it leaves its keys and
values, and is the teacher. The noise pass runs only the noise rows, with the adapter, over those keys and values. There
is no AR loss, because the base does not change (DraftSpec; Apple, arXiv 2507.11851; Uno, arXiv 2609.04010).

Shape suffixes: B rows, L clean tokens, N noise rows, T scored rows, U clean tokens of all rows, D hidden size,
V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nbdiff_engine.model.attention import PADDING, additive, dense_mask
from nbdiff_engine.model.families import logit_scale_of
from training.objective.attention_plan import plan_of
from training.objective.draft_attention import CleanKeysValues, clean_tokens, noise_mask, noise_plan
from training.objective.draft_losses import ScoringHead, Targets, Weights, draft_losses
from training.objective.draft_noising import DraftBatch
from training.objective.noising import IGNORED
from training.objective.step_losses import StepLosses

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class DraftSums:
    """Sums over the noise rows of a batch, not yet divided by the step's target count."""

    loss: Tensor  # with a gradient
    parts: Tensor  # float32 [3]: weighted CE, KL and TV
    rows: int  # scored rows

    def total(self, ar_weight: float) -> Tensor:
        return self.loss

    def numbers(self) -> Tensor:
        """Loss, CE, KL, TV, rows: float64 [5] on the CPU, for summation over batches and processes."""
        figures = [self.loss.detach().double().cpu(), *self.parts.double().cpu().unbind()]
        return torch.stack([*figures, torch.tensor(self.rows, dtype=torch.float64)])


@dataclass(frozen=True, slots=True)
class Drafts:
    """What the rows of a batch draft, for an evaluation: U of them in the order of the batch, all rows of all groups.

    offset: distance from the anchor, from 1. tokens: the drafter's most likely token; wanted: the base's, where it has
    read the true text. targets: the token of the text, IGNORED after its end. ce: cross-entropy in nats.
    """

    offset: Tensor
    tokens: Tensor
    wanted: Tensor
    targets: Tensor
    ce: Tensor


class DraftObjective(nn.Module):
    """A frozen causal LM with a draft adapter. Distributed training wraps this module."""

    SUMS = 5  # of DraftSums.numbers

    def __init__(
        self,
        adapters: "PeftModel",
        network: PreTrainedModel,
        weights: Weights,
        causal: bool,
        mask_embedding: nn.Parameter | None,
        plans: bool,
    ):
        """network: the one inside `adapters`, with the attention `DRAFTS`.

        causal: attention among noise rows. mask_embedding: [D]; None for uniform noise. plans: compute attention by
        plans, for a CPU.
        """
        super().__init__()
        self.network = network
        self.mask_embedding = mask_embedding
        self.adapters = adapters.base_model
        self.body = network.base_model
        self.weights = weights
        self.causal = causal
        self.plans = plans
        self.head = ScoringHead(
            network.get_output_embeddings(), logit_scale_of(network.config), network.config.get_text_config().vocab_size
        )

    def forward(self, batch: DraftBatch, open_future: None = None) -> DraftSums:
        """The summed losses of a batch."""
        if not (batch.document != PADDING).any():  # a distributed backward needs a gradient of every parameter
            nothing = sum(0.0 * each.sum() for each in self.parameters() if each.requires_grad)
            return DraftSums(nothing, torch.zeros(3), 0)
        teacher_UD, memory = self._clean(batch)
        hidden_ND = self._noise(batch, memory)
        targets, rows = self._targets(batch, teacher_UD)
        loss, parts = draft_losses(hidden_ND[rows], targets, self.head, self.weights)
        return DraftSums(loss + 0.0 * hidden_ND.sum(), parts, len(rows))

    @torch.no_grad()
    def drafts(self, batch: DraftBatch) -> Drafts:
        """What the drafter and the base predict at every noise row."""
        there = batch.document != PADDING
        targets = batch.targets[there]
        found = torch.zeros(3, len(targets), dtype=torch.float64)
        if there.any():
            teacher_UD, memory = self._clean(batch)
            hidden_ND = self._noise(batch, memory)
            scored, rows = self._targets(batch, teacher_UD)
            for part in self.head.chunks(len(rows)):
                logits, (teacher, which) = self.head(hidden_ND[rows[part]]), self.head.teacher(scored, part)
                ce = nn.functional.cross_entropy(logits, scored.tokens[part], reduction="none")
                figures = torch.stack([logits.argmax(1), teacher.argmax(1)[which], ce])
                found[:, rows[part].cpu()] = figures.double().cpu()
        tokens, wanted, ce = found
        offset = (batch.position - batch.anchor)[there]
        return Drafts(offset.cpu(), tokens.long(), wanted.long(), targets.cpu(), ce)

    def step_losses(self, sums: list[float], count: float, ar_weight: float) -> StepLosses:
        """The mean losses of a step. sums: of `DraftSums.numbers`; count: sum of the weights of the rows."""
        loss, ce, kl, tv, rows = sums
        kept = (value / count if weight else None for value, weight in ((kl, self.weights.kl), (tv, self.weights.tv)))
        kl_mean, tv_mean = kept
        return StepLosses(loss / count, ce / count, None, int(rows), kl_mean, tv_mean)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        found = {name: each for name, each in self.network.named_parameters() if each.requires_grad}
        return found if self.mask_embedding is None else {**found, "mask_embedding": self.mask_embedding}

    # -- the two passes -------------------------------------------------------------------------------------

    @torch.no_grad()
    def _clean(self, batch: DraftBatch) -> tuple[Tensor, CleanKeysValues]:
        """The base's hidden states, [U, D] or [B * L, D], and each layer's keys and values."""
        memory, packed = CleanKeysValues(), batch.packed
        with self._base():
            if self.plans:
                there = packed.document != PADDING
                hidden = self.body(
                    input_ids=packed.ids[there][None],
                    position_ids=packed.position[there][None],
                    plan=plan_of(clean_tokens(packed), there, "token_causal"),
                    memory=memory,
                    use_cache=False,
                ).last_hidden_state
            else:
                tokens = clean_tokens(packed)
                mask = dense_mask(tokens, tokens, "token_causal")
                mask |= torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
                hidden = self.body(
                    input_ids=packed.ids,
                    position_ids=packed.position,
                    attention_mask=self._additive(mask),
                    memory=memory,
                    use_cache=False,
                ).last_hidden_state
        memory.reading = True
        return hidden.flatten(0, 1), memory

    def _noise(self, batch: DraftBatch, memory: CleanKeysValues) -> Tensor:
        """The hidden states of the noise rows that are not padding, in the order of the batch."""
        embedded = self.network.get_input_embeddings()(batch.ids)
        if self.mask_embedding is not None:
            embedded = torch.where(batch.mask[..., None], self.mask_embedding.to(embedded.dtype), embedded)
        there = batch.document != PADDING
        if not self.plans:
            hidden = self.body(
                inputs_embeds=embedded,
                position_ids=batch.position,
                attention_mask=self._additive(noise_mask(batch, self.causal)),
                memory=memory,
                use_cache=False,
            ).last_hidden_state
            return hidden[there]
        return self.body(
            inputs_embeds=embedded[there][None],
            position_ids=batch.position[there][None],
            plan=noise_plan(batch, self.causal),
            memory=memory,
            use_cache=False,
        ).last_hidden_state[0]

    def _targets(self, batch: DraftBatch, teacher_UD: Tensor) -> tuple[Targets, Tensor]:
        """The targets, and the index of each scored row among the rows that are not padding.

        They are in the order of their tokens in the text, so that neighbours have the same teacher.
        """
        there = batch.document != PADDING
        if self.plans:  # the clean tokens are without padding too
            number = ((batch.packed.document != PADDING).flatten().cumsum(0) - 1).view(batch.packed.ids.shape)
        else:
            number = torch.arange(batch.packed.ids.numel(), device=batch.ids.device).view(batch.packed.ids.shape)
        at = number.gather(1, batch.column)[there]
        targets = batch.targets[there]
        rows = (targets != IGNORED).nonzero()[:, 0]
        rows = rows[at[rows].argsort(stable=True)]
        return Targets(targets[rows], batch.weight[there][rows], teacher_UD, at[rows]), rows

    def _additive(self, mask: Tensor) -> Tensor:
        kind = mask.device.type
        autocast = torch.is_autocast_enabled(kind)
        return additive(mask, torch.get_autocast_dtype(kind) if autocast else self.network.dtype)

    @contextmanager
    def _base(self) -> Iterator[None]:
        """The network as its checkpoint is: without adapter and without dropout."""
        training = self.network.training
        self.network.eval()
        self.adapters.disable_adapter_layers()
        try:
            yield
        finally:
            self.adapters.enable_adapter_layers()
            self.network.train(training)
