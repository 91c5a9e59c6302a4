"""DecodePlan: a caller's settings and a checkpoint's spec, combined into the values that a strategy needs."""

from dataclasses import dataclass

from nbdiff_engine.decoding.answer_text import TokenTexts
from nbdiff_engine.decoding.checkpoint_defaults import UnusedDefaults, unused_defaults, with_checkpoint_values
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.spec import DiffusionSpec
from nbdiff_engine.model.width_cost import ForwardTimes, WidthCost, forward_times, width_cost
from nbdiff_engine.token_choice.penalties import Penalties
from nbdiff_engine.token_choice.sampling import Prediction, Sampler
from nbdiff_engine.token_choice.unmasking import POLICIES, Selection, UnmaskingPolicy

_MOST_CANDIDATES = 8  # of a forward, if the settings name no number and the draft layout is auto


@dataclass(frozen=True, slots=True)
class BeyondTraining:
    """A note for the caller: the block is larger than the checkpoint was trained for. `str` gives it as a sentence."""

    model: str
    block_size: int
    trained: int

    def __str__(self) -> str:
        return (
            f"block size {self.block_size} is larger than the {self.trained} that {self.model} was trained for; "
            "expect worse text"
        )


Note = BeyondTraining | UnusedDefaults


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """All that a strategy reads. In `settings`, every None that the spec can fill is filled.

    notes: remarks about settings that are valid, for the caller.
    """

    settings: DecodeSettings
    spec: DiffusionSpec | None
    policy: UnmaskingPolicy | None
    sampler: Sampler
    eos_token_ids: frozenset[int]
    context_length: int
    texts: TokenTexts | None  # None without a tokenizer
    gated: bool = False  # a draft adapter acts at noise rows, and the base alone at others
    cost: WidthCost | None = None  # of the forwards, for the draft layout auto
    times: ForwardTimes | None = None  # where they are timed, if this cost was measured
    notes: tuple[Note, ...] = ()

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end the answer: EOS, and the caller's stop tokens."""
        return self.eos_token_ids.union(self.settings.stop_token_ids)

    def answer_limit(self, prompt_tokens: int) -> int:
        """The longest answer to a prompt of this length, in tokens: max_new_tokens, or what the context leaves."""
        return min(self.settings.max_new_tokens, self.context_length - prompt_tokens)

    @property
    def shift(self) -> int:
        """The distance from an output to the position that it predicts: 1 under a token shift, else 0."""
        return 1 if self.spec is None or self.spec.token_shift else 0

    def positions_to_fix(self, prediction: Prediction, step: int) -> Selection:
        """The positions that the policy fixes in a denoise pass, with the policy's value from the settings."""
        return self.policy.select(prediction, step, getattr(self.settings, self.policy.setting))

    def block_width(self, start: int) -> int:
        """Tokens of the block at sequence position `start`. The end of the context may shorten the last block."""
        return min(self.settings.block_size, self.context_length - start)


def make_plan(model: BlockModel, settings: DecodeSettings) -> DecodePlan:
    """Fill missing settings from the spec, and from the generation config if `settings.settings` says so.

    Raises SettingError if the settings do not fit the checkpoint.
    """
    notes: list[Note] = []
    if settings.settings == "checkpoint":
        settings = with_checkpoint_values(model, settings)
    elif (unused := unused_defaults(model, settings)) is not None:
        notes.append(unused)
    strategy = settings.strategy or ("ar" if model.spec is None else "block_diffusion")
    spec = model.spec if strategy == "ar" else model.require_spec(f"strategy={strategy!r}")
    if strategy != "block_diffusion" and spec is not None and not spec.commits_as_ar:
        raise SettingError(
            f"{model.name} commits its blocks with token_shift={spec.token_shift} and context={spec.context!r}, "
            f"which is no AR pass; strategy={strategy!r} needs one. Use strategy='block_diffusion'."
        )
    if settings.stop and model.tokenizer is None:
        raise SettingError(f"{model.name} has no tokenizer, so stop strings cannot be looked for.")
    _check_token_ids(model, settings)
    chosen: dict[str, object] = {"strategy": strategy}
    if strategy == "ar":
        chosen |= {"block_size": 1, "sub_block_size": None, "unmasking": None, "threshold": None}
    else:
        chosen["block_size"] = block_size = settings.block_size or spec.block_size
        if block_size > spec.block_size:
            notes.append(BeyondTraining(model.name, block_size, spec.block_size))
        chosen["unmasking"] = settings.unmasking or spec.unmasking
        chosen["threshold"] = settings.threshold or spec.threshold
        sub_block_size = settings.sub_block_size or min(spec.sub_block_size or block_size, block_size)
        if sub_block_size > block_size:
            must_be = f"it must be at most the block size, {block_size}"
            raise SettingError.of("sub_block_size", str(sub_block_size), must_be)
        # A draft has no sub-blocks: they order the positions that become final, and a draft is not final.
        chosen["sub_block_size"] = sub_block_size if strategy == "block_diffusion" else None
    cost = candidates = None
    if strategy == "self_speculative":
        chosen["draft_layout"] = layout = _draft_layout(model, settings)
        cost = width_cost(model) if layout == "auto" else None
        candidates = settings.draft_candidates
        if candidates is None:
            candidates = _MOST_CANDIDATES if layout == "auto" else 0
    chosen["draft_candidates"] = candidates
    filled = settings.model_copy(update=chosen)
    policy = None if filled.unmasking is None else POLICIES[filled.unmasking]
    return DecodePlan(
        settings=filled,
        spec=spec,
        policy=policy,
        sampler=Sampler(
            temperature=filled.temperature,
            top_k=filled.top_k,
            top_p=filled.top_p,
            min_p=filled.min_p,
            seed=filled.seed,
            forbidden=model.never_predicted,
            penalties=Penalties(
                repetition=filled.repetition_penalty,
                presence=filled.presence_penalty,
                frequency=filled.frequency_penalty,
                bias=tuple(filled.logit_bias.items()),
            ),
            logprobs=filled.logprobs,
        ),
        eos_token_ids=frozenset() if filled.ignore_eos else model.eos_token_ids,
        context_length=model.context_length,
        texts=None if model.tokenizer is None else TokenTexts(model.tokenizer, filled.stop_token_ids),
        gated=model.draft is not None,
        cost=cost,
        times=None if cost is None else forward_times(model),
        notes=tuple(notes),
    )


def _draft_layout(model: BlockModel, settings: DecodeSettings) -> str:
    """The draft layout, if the settings name none: auto with a draft adapter. Raises SettingError."""
    if settings.draft_steps > 1 and settings.draft_layout not in (None, "separate"):
        raise SettingError.of(
            "draft_steps",
            "",
            f"is {settings.draft_steps} and draft_layout {settings.draft_layout!r}; a draft of several denoise passes "
            "needs draft_layout='separate'",
        )
    if settings.draft_layout is not None:
        return settings.draft_layout
    return default_draft_layout(model.draft is not None) if settings.draft_steps == 1 else "separate"


def default_draft_layout(has_adapter: bool) -> str:
    """The layout of drafts of one pass if the settings name none. has_adapter: the model has a draft adapter."""
    return "auto" if has_adapter else "separate"


def _check_token_ids(model: BlockModel, settings: DecodeSettings) -> None:
    """Raises SettingError for a stop token or a bias of a token that is never predicted."""
    for name, tokens in (("stop_token_ids", settings.stop_token_ids), ("logit_bias", settings.logit_bias)):
        for token in tokens:
            if token >= model.vocab_size:
                ids = f"{model.name} has ids 0 to {model.vocab_size - 1}"
                raise SettingError.of(name, "", f"has the token id {brief(token)}; {ids}")
            if token in model.never_predicted:
                raise SettingError.of(name, "", f"has the token id {token}, which is MASK: it is never predicted")
