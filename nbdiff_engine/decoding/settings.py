"""DecodeSettings: what a caller may ask of a decoder, checked at the edge, one sentence a mistake."""

import math
import warnings
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nbdiff_engine.errors import SettingError, brief, first_problem
from nbdiff_engine.model.spec import MAX_BLOCK_SIZE
from nbdiff_engine.token_choice.unmasking import POLICIES

STRATEGIES: tuple[str, ...] = ("ar", "block_diffusion", "self_speculative")

# Beyond these a float32 softmax overflows: below, it is greedy in all but name, above, uniform.
TEMPERATURES = (0.001, 100.0)


class DecodeSettings(BaseModel):
    """Every knob of decoding. None means: as the checkpoint's spec says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Annotated[str | None, Field(description="decoding strategy: " + ", ".join(STRATEGIES))] = None
    block_size: Annotated[int | None, Field(description="tokens per block")] = None
    sub_block_size: Annotated[int | None, Field(description="tokens per sub-block, filled left to right")] = None
    unmasking: Annotated[str | None, Field(description="unmasking policy: " + ", ".join(POLICIES))] = None
    threshold: Annotated[float | None, Field(description="confidence threshold, in (0, 1]")] = None
    factor: Annotated[float, Field(description="parallelism of factor, above 0: more is bolder")] = 1.0
    margin: Annotated[float, Field(description="lead over the second-best token that margin asks for, in (0, 1]")] = 0.8
    entropy_bound: Annotated[float, Field(description="nats that entropy_bound may spend a step, from 0")] = 0.1
    tokens_per_step: Annotated[int, Field(description="tokens fixed per step by top_k and entropy")] = 1
    steps_per_block: Annotated[int, Field(description="denoise passes per sub-block of fixed_steps")] = 8
    draft_steps: Annotated[int, Field(description="denoise passes per draft of self_speculative")] = 1
    max_new_tokens: Annotated[int, Field(description="the answer is cut here")] = 128
    temperature: Annotated[float, Field(description="0 is greedy")] = 0.0
    top_k: Annotated[int | None, Field(description="sample among the k best tokens")] = None
    top_p: Annotated[float | None, Field(description="sample in the nucleus of this mass, in (0, 1]")] = None
    seed: Annotated[int, Field(description="seed of the sampling noise")] = 0
    stop: Annotated[tuple[str, ...], Field(description="strings that end the answer; may be repeated")] = ()
    skip_after_eos: Annotated[
        bool, Field(description="block_diffusion: leave masked what stands behind an EOS that is fixed already")
    ] = False
    ignore_eos: Annotated[bool, Field(description="decode on to max_new_tokens, for fair timing")] = False
    trace: Annotated[bool, Field(description="record runner-up tokens and confidences")] = True

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Check settings. Raises SettingError with one sentence for the first that is wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise SettingError(first_problem(error).rstrip(".") + ".") from error

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and info.field_name not in ("skip_after_eos", "ignore_eos", "trace"):
            raise ValueError(f"{info.field_name} is {value}; give a value, not a yes or no")
        return value

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str | None) -> str | None:
        if value is not None and value not in STRATEGIES:
            raise ValueError(f"strategy is {brief(value)}; choose one of {', '.join(STRATEGIES)}")
        return value

    @field_validator("unmasking")
    @classmethod
    def _known_policy(cls, value: str | None) -> str | None:
        if value is not None and value not in POLICIES:
            raise ValueError(f"unmasking is {brief(value)}; choose one of {', '.join(POLICIES)}")
        return value

    @field_validator(
        "block_size",
        "sub_block_size",
        "tokens_per_step",
        "steps_per_block",
        "draft_steps",
        "max_new_tokens",
        "top_k",
    )
    @classmethod
    def _at_least_one(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value < 1:
            raise ValueError(f"{info.field_name} is {brief(value)}; it must be at least 1")
        if info.field_name == "block_size" and value is not None and value > MAX_BLOCK_SIZE:
            raise ValueError(f"block_size is {brief(value)}; it must be at most {MAX_BLOCK_SIZE}")
        return value

    @field_validator("threshold", "margin", "top_p")
    @classmethod
    def _a_share(cls, value: float | None, info: Any) -> float | None:
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{info.field_name} is {value:g}; it must be above 0 and at most 1")
        return value

    @field_validator("factor")
    @classmethod
    def _a_factor(cls, value: float) -> float:
        if not 0 < value < math.inf:
            raise ValueError(f"factor is {value:g}; it must be above 0 and finite")
        return value

    @field_validator("entropy_bound")
    @classmethod
    def _an_entropy(cls, value: float) -> float:
        if not 0 <= value < math.inf:
            raise ValueError(f"entropy_bound is {value:g}; it must be at least 0 nats and finite")
        return value

    @field_validator("temperature")
    @classmethod
    def _a_temperature(cls, value: float) -> float:
        low, high = TEMPERATURES
        if value != 0 and not low <= value <= high:
            raise ValueError(f"temperature is {value:g}; it must be 0 (greedy) or from {low:g} to {high:g}")
        return value

    @field_validator("seed")
    @classmethod
    def _a_seed(cls, value: int) -> int:
        if not 0 <= value < 2**63:
            raise ValueError(f"seed is {brief(value)}; it must be from 0 to 2^63 - 1")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _findable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not text:
                raise ValueError("a stop string is empty; leave it out instead")
            if not is_text(text):
                raise ValueError(f"the stop string {brief(text)} is not valid text: it holds half of a surrogate pair")
        return value


def is_text(text: str) -> bool:
    """Whether a str can be written down at all: one with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def warn_beyond_training(block_size: int, trained: int, name: str) -> None:
    """Warn the caller of `generate` or `stream` that a block is larger than the checkpoint was trained for."""
    if block_size > trained:
        warnings.warn(
            f"block size {block_size} is larger than the {trained} that {name} was trained for; expect worse text",
            UserWarning,
            stacklevel=5,  # past this, make_plan, prepare and generate, to the line that called it
        )
