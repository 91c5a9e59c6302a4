"""DiffusionSpec: how to denoise the blocks of a checkpoint. Stored in `config.json` under `block_diffusion`."""

from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nbdiff_engine.errors import CheckpointError, first_problem
from nbdiff_engine.token_choice.unmasking import PolicyName

CONFIG_KEY = "block_diffusion"
MAX_BLOCK_SIZE = 1024  # much larger than any trained one; limits the memory of a forward


class DiffusionSpec(BaseModel):
    """The facts about a block-diffusion checkpoint that its weights do not show.

    The defaults are NBDiff's (arXiv 2512.06776). Two kinds of checkpoints are valid: *shifted* ones, adapted
    from AR, where the output at i-1 predicts token i and the first token of a block comes from the AR logits of
    the last committed token (NBDiff, Fast-dLLM v2, Nemotron); and *unshifted* ones, where the output at i
    predicts token i and the first token is masked like the others (SDAR, BD3-LM). A mixture of both cannot be
    decoded, so `load` refuses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mask_token_id: int = Field(ge=0, strict=True)  # strict: true is not the id 1
    block_size: int = Field(default=32, ge=1, le=MAX_BLOCK_SIZE, description="tokens per block, as trained")
    sub_block_size: int | None = Field(default=None, ge=1, description="tokens per sub-block, filled in turn")
    context: Literal["token_causal", "block_causal"] = Field(
        default="token_causal", description="how committed tokens attend to each other"
    )
    token_shift: bool = Field(default=True, description="the output at i-1 predicts token i")
    first_token: Literal["ar", "masked"] = Field(
        default="ar", description="where the first token of a block comes from"
    )
    block_grid: Literal["prompt_end", "absolute"] = Field(
        default="prompt_end",
        description="blocks start at the prompt's end, or at multiples of the block size",
    )
    unmasking: PolicyName = Field(default="confidence", description="default unmasking policy")
    threshold: float = Field(default=0.9, gt=0, le=1, description="default confidence threshold")

    @model_validator(mode="after")
    def _shift_and_first_token_agree(self) -> Self:
        if self.token_shift != (self.first_token == "ar"):
            raise ValueError(
                f"token_shift={self.token_shift} with first_token={self.first_token!r} cannot be decoded: a "
                "shifted checkpoint takes the first token of a block from its AR logits ('ar'), an unshifted "
                "one masks it ('masked')"
            )
        if self.sub_block_size is not None and self.sub_block_size > self.block_size:
            raise ValueError(f"sub_block_size {self.sub_block_size} is larger than the block size {self.block_size}")
        return self

    @property
    def commits_as_ar(self) -> bool:
        """Whether a commit pass is an AR pass. `ar` and `self_speculative` decoding require it."""
        return self.token_shift and self.context == "token_causal"

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str) -> Self | None:
        """Read the spec from a checkpoint's `config.json`; None if it has no such entry.

        Raises CheckpointError for a field that is unknown, missing or out of range: decoding never ignores
        a field. where: the name of the checkpoint in the message.
        """
        fields = config.get(CONFIG_KEY)
        if fields is None:
            return None
        try:
            spec = cls.model_validate(fields)
        except ValidationError as error:
            raise CheckpointError(
                f"The {CONFIG_KEY!r} entry of {where} is not valid: {first_problem(error)}."
            ) from error
        vocabulary = config.get("vocab_size")
        if isinstance(vocabulary, int) and spec.mask_token_id >= vocabulary:
            raise CheckpointError(
                f"The mask token id {spec.mask_token_id} of {where} lies outside its vocabulary of {vocabulary}."
            )
        spec.check_eos(config.get("eos_token_id"), where)
        return spec

    def check_eos(self, eos_token_ids: Any, where: str) -> None:
        """Raises CheckpointError if MASK is an EOS: it is never predicted, so no answer could end.

        eos_token_ids: a token id, several of them, or None. where: the name of the checkpoint in the message.
        """
        ids = eos_token_ids if isinstance(eos_token_ids, Collection) else (eos_token_ids,)
        if self.mask_token_id in ids:
            raise CheckpointError(
                f"The mask token id {self.mask_token_id} of {where} is an EOS too; give MASK another token."
            )
