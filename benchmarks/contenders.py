"""The contenders of the decoding benchmark: the engine's strategies, and the decoding modes of transformers.

A contender answers all prompts, `batch` at a time, and returns the token ids of each answer, cut after its EOS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import PreTrainedModel

import nbdiff_engine as nb
from nbdiff_engine.errors import SettingError
from nbdiff_engine.trace.metrics import Metrics, pooled

BLOCK_SIZES = (4, 8, 16, 32)
THRESHOLDS = (0.5, 0.9, 0.99)
FACTORS = (0.5, 1.0)
TRANSFORMERS = "transformers.generate"  # the row with which the others are compared, beside AR
LOOKUP_TOKENS = 10  # tokens of a prompt-lookup draft, the value in transformers' documentation


@dataclass(frozen=True, slots=True)
class Answers:
    """Token ids of every answer. metrics: of every answer; None for transformers, which has none."""

    token_ids: list[list[int]]
    metrics: list[Metrics] | None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.token_ids))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Answers of several calls, in their order."""
        metrics = [each for part in parts for each in part.metrics or ()]
        return cls([ids for part in parts for ids in part.token_ids], metrics or None)

    @property
    def tokens_per_forward(self) -> float | None:
        return None if self.metrics is None else pooled(self.metrics).tokens_per_forward


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the race. lossless: whether its tokens must equal those of AR, except for rounding."""

    name: str
    run: Callable[[], Answers]
    lossless: bool
    block_size: int | None = None
    policy: str | None = None


def contenders(
    model: nb.BlockModel,
    stock: PreTrainedModel,
    assistant: PreTrainedModel | None,
    prompts: list[list[int]],
    limit: int,
    batch: int,
) -> list[Contender]:
    """All rows for `prompts` (token ids). The first is our AR, the second is transformers.generate.

    stock: the same weights in transformers' own model. limit: new tokens per answer. With a batch above 1 the
    speculative modes of transformers are not available, and block diffusion has fewer rows.
    """
    chunks = [prompts[first : first + batch] for first in range(0, len(prompts), batch)]
    rows = [_ours("AR, ours", True, model, chunks, limit, strategy="ar")]

    def theirs(name: str, **options: Any) -> None:
        rows.append(_transformers(name, model, stock, chunks, limit, **options))

    theirs(TRANSFORMERS)
    theirs("transformers, static cache", cache_implementation="static")
    if batch == 1:
        if assistant is not None:
            theirs("transformers, assisted", assistant_model=assistant)
        theirs("transformers, prompt lookup", prompt_lookup_num_tokens=LOOKUP_TOKENS)
    if model.spec is None:
        return rows
    for size in BLOCK_SIZES:
        if batch == 1 or size >= 8:
            rows.append(
                _ours(
                    "self-speculation", True, model, chunks, limit, size, strategy="self_speculative", block_size=size
                )
            )
    for size in BLOCK_SIZES:
        if batch > 1 and size < 16:
            continue
        for threshold in THRESHOLDS if batch == 1 else THRESHOLDS[1:]:
            settings = {"block_size": size, "unmasking": "confidence", "threshold": threshold}
            rows.append(_block_diffusion(model, chunks, limit, f"confidence {threshold:g}", settings))
        if size >= 16:
            for factor in FACTORS if batch == 1 else FACTORS[:1]:
                settings = {"block_size": size, "unmasking": "factor", "factor": factor}
                rows.append(_block_diffusion(model, chunks, limit, f"factor {factor:g}", settings))
    return rows


def lossless_contenders(
    model: nb.BlockModel, stock: PreTrainedModel | None, prompt: list[int], limit: int
) -> list[Contender]:
    """The rows that must give AR's tokens on one prompt: AR, and self-speculation with the model's own block size. With
    `stock`, as in `contenders`, also the modes of transformers that need no second model, and fixed layouts of drafts.

    Self-speculation chooses its drafts by the measured cost of a forward, which may be none. `behind_last` drafts in
    each forward; `behind_each` drafts after each possible acceptance point, which takes the fewest forwards.
    """
    chunks, size = [[prompt]], model.spec.block_size
    speculative = {"strategy": "self_speculative"}
    rows = [
        _ours("AR, ours", True, model, chunks, limit, strategy="ar"),
        _ours("self-speculation", True, model, chunks, limit, size, **speculative),
    ]
    if stock is None:
        return rows
    lookup = {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
    candidates = {**speculative, "draft_candidates": 8}
    return [
        *rows,
        _transformers(TRANSFORMERS, model, stock, chunks, limit),
        _transformers("transformers, prompt lookup", model, stock, chunks, limit, **lookup),
        _ours("drafts behind the last", True, model, chunks, limit, size, draft_layout="behind_last", **candidates),
        _ours(
            "drafts behind each", True, model, chunks, limit, 4, draft_layout="behind_each", block_size=4, **candidates
        ),
    ]


def load_stock(
    model: nb.BlockModel, name: str, assistant: str | None
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """The weights of `name` in transformers' own model, and an assistant with the same vocabulary, on the model's
    device and in its dtype. Raises CheckpointError or SettingError."""
    dtype, device = str(model.dtype).removeprefix("torch."), str(model.device)
    stock = nb.load(name, dtype=dtype, device=device, fused=False)
    if assistant is None:
        return stock.network, None
    other = nb.load(assistant, dtype=dtype, device=device, fused=False)
    if other.vocab_size != model.vocab_size:
        raise SettingError(
            f"The assistant {assistant} has a vocabulary of {other.vocab_size} tokens, but {name} has "
            f"{model.vocab_size}; give an assistant with the same vocabulary, or --assistant none."
        )
    return stock.network, other.network


def cut(token_ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """An answer up to and including its first EOS."""
    end = next((at + 1 for at, token in enumerate(token_ids) if token in ends), len(token_ids))
    return list(token_ids[:end])


def _ours(
    name: str,
    lossless: bool,
    model: nb.BlockModel,
    chunks: list[list[list[int]]],
    limit: int,
    size: int | None = None,
    policy: str | None = None,
    **settings: Any,
) -> Contender:
    def run() -> Answers:
        outputs = []
        for chunk in chunks:
            outputs += nb.generate(model, chunk, max_new_tokens=limit, trace=False, **settings)
        return Answers([each.token_ids for each in outputs], [each.metrics for each in outputs])

    return Contender(name, run, lossless, size, policy)


def _block_diffusion(
    model: nb.BlockModel, chunks: list[list[list[int]]], limit: int, policy: str, settings: dict[str, Any]
) -> Contender:
    return _ours(
        "block diffusion",
        False,
        model,
        chunks,
        limit,
        settings["block_size"],
        policy,
        strategy="block_diffusion",
        **settings,
    )


def _transformers(
    name: str, model: nb.BlockModel, stock: PreTrainedModel, chunks: list[list[list[int]]], limit: int, **options: Any
) -> Contender:
    """Greedy `generate` on left-padded rows. Tokens after an EOS are cut off and not counted."""
    ends = model.eos_token_ids
    padding = min(ends, default=0)

    def answer(chunk: list[list[int]]) -> list[list[int]]:
        longest = max(map(len, chunk))
        rows = [[padding] * (longest - len(each)) + each for each in chunk]
        attended = [[0] * (longest - len(each)) + [1] * len(each) for each in chunk]
        out = stock.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(attended, device=model.device),
            max_new_tokens=limit,
            do_sample=False,
            use_cache=True,
            pad_token_id=padding,
            **options,
        )
        return [cut(each, ends) for each in out[:, longest:].tolist()]

    def run() -> Answers:
        with torch.inference_mode():
            return Answers([ids for chunk in chunks for ids in answer(chunk)], None)

    return Contender(name, run, True)
