"""The sections lora and draft of a recipe: which adapters are trained, and how a draft adapter is."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.recipe.section import Section


class Lora(Section):
    """Train low-rank adapters (LoRA) and the mask token's embedding instead of all weights."""

    mode: Literal["all", "draft_only"] = Field(
        default="all",
        description="all: active at every token, merged at the end; draft_only: a draft adapter, active at noise rows "
        "only, so that the base's own answers never change (see draft)",
    )
    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: float = Field(default=32, gt=0, description="the adapters are scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapters")
    targets: str | tuple[str, ...] = Field(default="all-linear", description="names of the layers that get an adapter")
    use_rslora: bool = Field(default=False, description="scale the adapters by alpha / sqrt(rank) instead (rsLoRA)")
    use_dora: bool = Field(default=False, description="also train the norm of each output's weights (DoRA); slower")
    init: str = Field(
        default="default", description="first values of the adapters, by peft's name: default, gaussian, pissa, ..."
    )


class DraftSettings(Section):
    """lora.mode draft_only: the noise rows and the losses of a draft adapter. Its block sizes are those of blocks."""

    noise: Literal["mask", "uniform"] = Field(
        default="mask", description="what a noise row reads: a trained MASK embedding, or a random token"
    )
    noise_attention: Literal["bidirectional", "causal"] = Field(
        default="bidirectional", description="how the noise rows of one block see each other"
    )
    noise_high: int | None = Field(
        default=None, ge=2, description="uniform: ids are drawn from 1 to this - 1; empty: from the whole vocabulary"
    )
    ce: float = Field(default=1.0, ge=0, description="weight of the cross-entropy on the token of the text")
    kl: float = Field(default=0.0, ge=0, description="weight of KL(base || drafter)")
    tv: float = Field(
        default=0.0, ge=0, description="weight of the total variation: 1 - the chance that a sampled draft is accepted"
    )
    decay: float | None = Field(
        default=7.0,
        gt=0,
        description="gamma: draft k of a block has the weight exp(-(k-1) / gamma), as no draft after a wrong one is "
        "accepted; empty: equal weights",
    )
    all_noise: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of blocks in which every row is noise, as when drafting begins; in the others each row is "
        "noise with a probability t ~ U(0, 1] of the block",
    )
    groups: int = Field(
        default=1, ge=1, description="noisings per clean pass, each with other block borders; at most b_max - 1"
    )

    def high(self, vocabulary: int) -> int | None:
        """Uniform noise is drawn from 1 to this - 1; None for MASK noise. vocabulary: token ids of the base."""
        return None if self.noise == "mask" else self.noise_high or vocabulary

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.ce == self.kl == self.tv == 0:
            raise ValueError("ce, kl and tv are all 0, so there is no loss; give at least one of them a weight")
        if self.noise == "mask" and self.noise_high is not None:
            raise ValueError(f"noise_high is {self.noise_high}, but noise is mask; it is for uniform noise")
        return self
