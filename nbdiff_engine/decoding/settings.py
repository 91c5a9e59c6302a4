"""DecodeSettings: the settings of a decode call, checked on input; each mistake gives one sentence.

The only declaration of decode settings: `SETTING_FIELDS` reads the fields below, and the command line's options, the
arguments of lm-evaluation-harness and the page's forms are made from it.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nbdiff_engine.decoding.setting_fields import SettingForm, integers_from, pairs_from, read_fields
from nbdiff_engine.errors import SettingError, brief, is_text, setting_error
from nbdiff_engine.model.spec import MAX_BLOCK_SIZE
from nbdiff_engine.token_choice.sampling import MAX_CANDIDATES
from nbdiff_engine.token_choice.unmasking import POLICIES, PolicyName

Strategy = Literal["ar", "block_diffusion", "self_speculative"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

# Outside these limits a float32 softmax overflows. Below, sampling is practically greedy; above, practically uniform.
TEMPERATURES = (0.001, 100.0)
MAX_BIAS = 100.0  # of a logit; in practice it forces or forbids a token
MAX_LOGPROBS = 100  # tokens listed for each position

_IN_BLOCKS = ("block_diffusion", "self_speculative")
_DIFFUSION = ("block_diffusion",)
_TEMPERATURE = f"0 (greedy) or from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"


class DecodeSettings(BaseModel):
    """All settings of decoding. None means the value of the checkpoint's spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Annotated[
        Strategy | None,
        Field(description="decoding strategy: " + ", ".join(STRATEGIES)),
        SettingForm("Strategy", "Blocks"),
    ] = None
    block_size: Annotated[
        int | None,
        Field(ge=1, le=MAX_BLOCK_SIZE, description="tokens per block"),
        SettingForm("Block size", "Blocks", _IN_BLOCKS, step=1),
    ] = None
    sub_block_size: Annotated[
        int | None,
        Field(ge=1, description="tokens per sub-block, filled left to right"),
        SettingForm("Sub-block size", "Blocks", _DIFFUSION, step=1),
    ] = None
    unmasking: Annotated[
        PolicyName | None,
        Field(description="unmasking policy: " + ", ".join(POLICIES)),
        SettingForm("Unmasking policy", "Blocks", _IN_BLOCKS),
    ] = None
    threshold: Annotated[
        float | None,
        Field(gt=0, le=1, allow_inf_nan=False, description="confidence threshold, in (0, 1]"),
        SettingForm("Threshold", "Blocks", _IN_BLOCKS),
    ] = None
    factor: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="parallelism of the policy factor, above 0: larger is more parallel",
        ),
        SettingForm("Factor", "Blocks", _IN_BLOCKS),
    ] = 1.0
    margin: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="lead over the second-best token that the policy margin requires, in (0, 1]",
        ),
        SettingForm("Margin", "Blocks", _IN_BLOCKS),
    ] = 0.8
    entropy_bound: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="nats per step that the policy entropy_bound allows, from 0",
        ),
        SettingForm("Bound (nats)", "Blocks", _IN_BLOCKS, must_be="at least 0 nats and finite"),
    ] = 0.1
    tokens_per_step: Annotated[
        int,
        Field(ge=1, description="tokens fixed per step by top_k and entropy"),
        SettingForm("Tokens per step", "Blocks", _IN_BLOCKS, step=1),
    ] = 1
    steps_per_block: Annotated[
        int,
        Field(ge=1, description="denoise passes per sub-block of the policy fixed_steps"),
        SettingForm("Steps per block", "Blocks", _IN_BLOCKS, step=1),
    ] = 8
    draft_steps: Annotated[
        int,
        Field(ge=1, description="denoise passes per draft of self_speculative"),
        SettingForm("Draft passes", "Blocks", ("self_speculative",), step=1),
    ] = 1
    draft_backoff: Annotated[
        bool,
        Field(
            description="self_speculative, layouts separate and auto: after drafts that AR rarely agrees with, decode "
            "by AR for a while"
        ),
        SettingForm("Draft backoff", "Blocks", ("self_speculative",)),
    ] = True
    draft_layout: Annotated[
        Literal["auto", "separate", "behind_last", "behind_each"] | None,
        Field(
            description="self_speculative: where the next drafts are made: separate, in a forward that only drafts; "
            "behind_last, behind_each, in the verifying forward, after the last draft or after each; auto, as the "
            "measured cost of forwards and the accepted drafts say"
        ),
        SettingForm("Draft layout", "Blocks", ("self_speculative",)),
    ] = None
    draft_confidence: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            allow_inf_nan=False,
            description="joint confidence above which the draft layout behind_last verifies drafts, in [0, 1)",
        ),
        SettingForm("Draft confidence", "Blocks", ("self_speculative",), step=0.05),
    ] = 0.5
    draft_candidates: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_CANDIDATES,
            description="self_speculative: next-best tokens that a forward verifies beside the drafts; with the draft "
            "layout auto, at most so many. Default: 0, and 8 with auto",
        ),
        SettingForm("Draft candidates", "Blocks", ("self_speculative",), step=1),
    ] = None
    max_new_tokens: Annotated[
        int,
        Field(ge=1, description="maximum length of the answer, in tokens"),
        SettingForm("Answer length (tokens)", "End of the answer", step=1),
    ] = 128
    temperature: Annotated[
        float,
        Field(ge=0, le=TEMPERATURES[1], allow_inf_nan=False, description="0 is greedy"),
        SettingForm("Temperature", "Sampling", step=0.1, must_be=_TEMPERATURE),
    ] = 0.0
    top_k: Annotated[
        int | None,
        Field(ge=1, description="sample among the k best tokens"),
        SettingForm("Top-k", "Sampling", step=1),
    ] = None
    top_p: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="sample in the nucleus of this probability, in (0, 1]",
        ),
        SettingForm("Top-p", "Sampling", step=0.05),
    ] = None
    min_p: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="sample among the tokens with this share of the best token's probability, in (0, 1]",
        ),
        SettingForm("Min-p", "Sampling", step=0.05),
    ] = None
    seed: Annotated[
        int,
        Field(ge=0, le=2**63 - 1, description="seed of the sampling noise"),
        SettingForm("Seed", "Sampling", step=1, must_be="from 0 to 2^63 - 1"),
    ] = 0
    repetition_penalty: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            allow_inf_nan=False,
            description="divides the logits of tokens in prompt and answer (multiplies negative ones); 1 changes none",
        ),
        SettingForm("Repetition penalty", "Penalties", step=0.05),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Field(
            ge=-2,
            le=2,
            allow_inf_nan=False,
            description="subtracted from the logits of tokens that are in the answer, from -2 to 2",
        ),
        SettingForm("Presence penalty", "Penalties", step=0.1),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Field(
            ge=-2,
            le=2,
            allow_inf_nan=False,
            description="subtracted from a token's logit for each time it is in the answer, from -2 to 2",
        ),
        SettingForm("Frequency penalty", "Penalties", step=0.1),
    ] = 0.0
    logit_bias: Annotated[
        dict[int, float],
        Field(description="token id=number added to its logit, from -100 to 100; may be repeated"),
        SettingForm("Logit bias", "Penalties"),
    ] = {}
    stop: Annotated[
        tuple[str, ...],
        Field(description="strings that end the answer; may be repeated"),
        SettingForm("Stop strings", "End of the answer"),
    ] = ()
    stop_token_ids: Annotated[
        tuple[int, ...],
        Field(description="token ids that end the answer; may be repeated"),
        SettingForm("Stop tokens", "End of the answer"),
    ] = ()
    skip_after_eos: Annotated[
        bool,
        Field(description="block_diffusion: do not denoise the positions after an EOS that is already fixed"),
        SettingForm("Skip what follows an EOS", "End of the answer", _DIFFUSION),
    ] = False
    ignore_eos: Annotated[
        bool,
        Field(description="continue after an EOS up to max_new_tokens, for comparable timings"),
        SettingForm("Ignore end-of-text", "End of the answer"),
    ] = False
    logprobs: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_LOGPROBS,
            description="report each token's log-probability, and that many of the most likely tokens",
        ),
        SettingForm("Log-probabilities", "Record", step=1),
    ] = None
    settings: Annotated[
        Literal["engine", "checkpoint"],
        Field(
            description="where sampling and penalties that are not given come from: engine, this list's defaults; "
            "checkpoint, its generation_config.json"
        ),
        SettingForm("Defaults", "Sampling"),
    ] = "engine"
    trace: Annotated[
        bool,
        Field(description="record the alternatives and the confidence of each token"),
        SettingForm("Trace", "Record"),
    ] = True

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Check settings. Raises SettingError with one sentence for the first invalid setting."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            ranges = {name: field.range for name, field in SETTING_FIELDS.items() if field.range is not None}
            raise setting_error(error, ranges) from error

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise SettingError.of(info.field_name, str(value), "expected a value, not true or false")
        return value

    @field_validator("stop_token_ids", mode="before")
    @classmethod
    def _one_or_many_ids(cls, value: Any) -> Any:
        return integers_from("stop_token_ids", value)

    @field_validator("stop_token_ids")
    @classmethod
    def _ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for token in value:
            if token < 0:
                raise SettingError.of("stop_token_ids", "", f"has {brief(token)}; a token id is at least 0")
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _bias_as_pairs(cls, value: Any) -> Any:
        return pairs_from("logit_bias", value)

    @field_validator("logit_bias")
    @classmethod
    def _bias_in_range(cls, value: dict[int, float]) -> dict[int, float]:
        for token, bias in value.items():
            if token < 0:
                raise SettingError.of("logit_bias", "", f"has the token id {brief(token)}; a token id is at least 0")
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                limits = f"from {-MAX_BIAS:g} to {MAX_BIAS:g}"
                raise SettingError.of("logit_bias", "", f"has {bias:g} for token {brief(token)}; it must be {limits}")
        return value

    @field_validator("temperature")
    @classmethod
    def _not_too_near_to_zero(cls, value: float) -> float:
        if 0 < value < TEMPERATURES[0]:
            raise SettingError.of("temperature", f"{value:g}", f"it must be {_TEMPERATURE}")
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
                raise SettingError.of("stop", "''", "a stop string has at least one character; leave it out")
            if not is_text(text):
                raise ValueError(
                    f"the stop string {brief(text)} is not valid text: it contains half of a surrogate pair"
                )
        return value


SETTING_FIELDS = read_fields(DecodeSettings)  # by name, in the order above


def policies_as_json() -> list[dict[str, Any]]:
    """The table of policies for a page; each entry has the label, bounds and step of the policy's setting."""
    found = []
    for policy in POLICIES.values():
        field = SETTING_FIELDS[policy.setting]
        found.append(
            {
                **policy.to_json(),
                "setting_label": field.form.label,
                "setting_least": field.least,
                "setting_most": field.most,
                "setting_step": field.form.step,
            }
        )
    return found
