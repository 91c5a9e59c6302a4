"""Start: the part of an answer that exists already; a strategy continues from it."""

from dataclasses import dataclass

from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.model.block_model import BlockModel


@dataclass(frozen=True, slots=True)
class Start:
    """The state from which a decoder continues. Positions count from the prompt's end, as if it had decoded this part.

    committed: the answer's first tokens, which become context. block: the unfinished block after them; None is a
    masked position. Block diffusion fills it and extends it to the block size, but never shortens it. AR and
    self-speculation continue after its tokens before the first mask. number: the number of that block.
    step, sub_block_step: the denoise passes that the block, and its current sub-block, have already had.
    """

    committed: tuple[int, ...] = ()
    block: tuple[int | None, ...] = ()
    number: int = 0
    step: int = 0
    sub_block_step: int = 0

    @property
    def leading(self) -> tuple[int, ...]:
        """The block's tokens before its first mask."""
        end = self.block.index(None) if None in self.block else len(self.block)
        return self.block[:end]


def check_start(model: BlockModel, plan: DecodePlan, prompt: list[int], start: Start) -> None:
    """Raises SettingError, with one sentence, if a decoder cannot continue from `start`."""
    spec, size = plan.spec, plan.settings.block_size
    for token in (*start.committed, *(each for each in start.block if each is not None)):
        if type(token) is not int or not 0 <= token < model.vocab_size:
            raise SettingError(
                f"The answer to continue from holds the token id {brief(token)}; "
                f"{model.name} has ids 0 to {model.vocab_size - 1}."
            )
        if token in model.never_predicted:
            raise SettingError(
                f"The answer to continue from holds the MASK token (id {token}) as a token; a masked position is None."
            )
    whole = len(prompt) + len(start.committed) + len(start.block)
    if whole > model.context_length:
        raise SettingError(
            f"The prompt and the answer to continue from are {whole} tokens long; "
            f"{model.name} has a context of {model.context_length}."
        )
    if plan.settings.strategy != "block_diffusion":
        return
    tail = 0
    if spec.block_grid == "absolute":
        end = len(prompt) + len(start.committed)
        tail = end % size
        if (start.committed and tail) or tail + len(start.block) > size:
            raise SettingError(
                f"{model.name} has its blocks at multiples of the block size, {size}, and the answer to continue from "
                "has its blocks elsewhere; keep the block size that it was decoded with."
            )
    elif spec.context == "block_causal" and len(start.committed) % size:
        raise SettingError(
            f"{model.name} reads committed blocks whole, {size} tokens each, and the answer to continue from has its "
            "blocks elsewhere; keep the block size that it was decoded with."
        )
    if spec.first_token == "ar" and not tail and start.block and start.block[0] is None:
        raise SettingError(
            f"The first token of a block cannot be masked: {model.name} takes it from AR logits, of the token before."
        )
