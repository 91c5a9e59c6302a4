"""The likelihood of a text under a model: exact by its AR head, and as a bound by block diffusion.

Block diffusion of block size b factorises a continuation x of a context c into blocks that begin at the continuation's
start (or lie on the checkpoint's absolute grid): p(x | c) = prod_k p(x_k | c, x_<k). The context of a block is clean
and committed, as in decoding. Inside a block a masked-diffusion model is an any-order model, and its bound is

    -log p(x_k | c, x_<k)  <=  E_l E_M|l [ (L / l) * sum_{i in M} -log p(x_i | x_k with M masked, c, x_<k) ]

with l uniform on 1..L and M a uniform subset of l of the block's L maskable tokens: the low-variance form of LLaDA's
bound (arXiv 2502.09992, Eq. 6), block by block as in BD3-LM (arXiv 2503.09573). It is the mean, over all orders in
which the tokens can be revealed one by one, of the negative log-probability of the chain in that order. By Jensen's
inequality it is therefore a bound, and it is exact for L = 1. If a block's first token comes from AR logits (NBDiff),
it is scored exactly by these logits and never masked; so b = 1 is the AR likelihood, and b = 2 is also exact.

The positions of the last block after the continuation's end stay masked: the bound covers only the tokens of the text,
and the model does not see where the text ends. MASK has no probability, as in decoding.
"""

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from tqdm import tqdm

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import PromptError, SettingError, brief
from nbdiff_engine.evaluation.reading import MAX_LOGITS, Pair, Reading, open_session, read, score
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.model.session import Session
from nbdiff_engine.model.spec import DiffusionSpec

SAMPLES = 32


@dataclass(frozen=True, slots=True)
class ARLikelihood:
    """Natural-log probability of a continuation, by the AR head."""

    log_likelihood: float
    token_log_probs: tuple[float, ...]
    greedy: bool  # every token is the most probable one, so greedy AR decoding writes this continuation


@dataclass(frozen=True, slots=True)
class DiffusionLikelihood:
    """A lower bound of a continuation's natural-log probability under block diffusion."""

    log_likelihood: float  # the estimate of the bound
    standard_error: float | None  # of that estimate: 0 if nothing was sampled, None if there is only one sample
    openings_greedy: bool  # every token that AR logits gave (a block's first) is the most probable one


# -- AR ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def ar_likelihood(
    model: BlockModel, pairs: Sequence[Pair], *, batch_size: int = 8, progress: bool = False
) -> list[ARLikelihood]:
    """Log-likelihoods of continuations by plain causal passes, `batch_size` texts per forward. Texts that differ only
    in their last token, as the choices of a question often do, are read once.

    Raises SettingError for a checkpoint whose commit is not an AR pass, PromptError for a pair that cannot be scored.
    """
    if model.spec is not None and not model.spec.commits_as_ar:
        raise SettingError(
            f"{model.name} reads committed text with token_shift={model.spec.token_shift} and "
            f"context={model.spec.context!r}, which is no AR pass, so it has no AR likelihood; ask for the diffusion "
            "bound."
        )
    # The last token of a text is never read, so a text may be one token longer than the context.
    _check(model, pairs, batch_size, model.context_length + 1)
    same: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        same.setdefault((len(context), (*context, *continuation[:-1])), []).append(number)
    groups = list(same.values())
    results: list[ARLikelihood | None] = [None] * len(pairs)
    with tqdm(total=len(pairs), desc="AR likelihood", disable=not progress, leave=False) as bar:
        for chosen in _batches([pairs[group[0]] for group in groups], batch_size):
            own = [groups[index] for index in chosen]
            readings = [Reading.causal(pairs[group[0]], [pairs[n][1][-1] for n in group]) for group in own]
            session = open_session(model, [len(reading.tokens) for reading in readings])
            for group, (log_probs, best) in zip(own, read(session, readings)):
                shared = len(log_probs) - len(group)
                for last, n in enumerate(group, start=shared):
                    tokens = (*log_probs[:shared], log_probs[last])
                    results[n] = ARLikelihood(math.fsum(tokens), tokens, all(best[:shared]) and best[last])
            bar.update(sum(map(len, own)))
    return results


# -- diffusion ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def diffusion_likelihood(
    model: BlockModel,
    pairs: Sequence[Pair],
    *,
    block_size: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[DiffusionLikelihood]:
    """Bounds on the log-likelihoods of continuations under block diffusion with blocks of `block_size`.

    samples: masked copies of each block. If a block has at most this many possible masks (2^L - 1), all of them are
        used and the sum is exact. seed: of the masks. The masks depend on the seed and the context only, so that a
        text gets the same score in any batch, and continuations of one context are compared under the same noise.
    batch_size: rows per forward; a row is one copy of one text.

    Raises SettingError for an AR checkpoint or a setting out of range, PromptError for a pair that cannot be scored.
    """
    spec = model.require_spec("the diffusion bound")
    size = DecodeSettings.of(block_size=block_size, seed=seed).block_size or spec.block_size
    if samples < 1:
        raise SettingError(f"samples is {brief(samples)}; it must be at least 1.")
    _check(model, pairs, batch_size, model.context_length)
    results: list[DiffusionLikelihood | None] = [None] * len(pairs)
    most_draws = min(samples, 2 ** (size - (spec.first_token == "ar")) - 1)
    rows = max(1, min(batch_size, MAX_LOGITS // (size * model.vocab_size)))
    copies = min(rows, most_draws) or 1
    with tqdm(total=len(pairs), desc=f"bound, blocks of {size}", disable=not progress, leave=False) as bar:
        for numbers in _batches(pairs, rows // copies):
            texts = [_Text.of(model, spec, pairs[n], size, samples, seed) for n in numbers]
            for n, result in zip(numbers, _bounds(model, texts, size, copies)):
                results[n] = result
            bar.update(len(numbers))
    return results


@dataclass(frozen=True, slots=True)
class Draw:
    """One mask of a block: the masked tokens, and the weight of their summed loss in the bound."""

    masked: tuple[int, ...]  # indices into the block
    weight: float
    group: int  # draws of one group are stratified by the number of masked tokens; groups are independent


def draws(maskable: Sequence[int], samples: int, source: random.Random) -> list[Draw]:
    """Masks of a block whose `maskable` tokens may be masked. Their weights make the weighted loss an unbiased
    estimate of the bound. If at most `samples` masks exist: all masks, with their exact weights."""
    count = len(maskable)
    if 2**count - 1 <= samples:
        return [
            Draw(masked, 1 / (number * math.comb(count, number)), 0)
            for number in range(1, count + 1)
            for masked in combinations(maskable, number)
        ]
    groups = samples // max(1, min(count, samples // 2))
    found = []
    for group in range(groups):
        own = samples // groups + (group < samples % groups)
        offset = source.random()
        for index in range(own):
            number = 1 + int(count * (index + offset) / own)  # uniform on 1..count, one from each stratum
            masked = tuple(sorted(source.sample(maskable, number)))
            found.append(Draw(masked, count / number / (own * groups), group))
    return found


@dataclass(frozen=True, slots=True)
class Block:
    """A block to score: its tokens, with MASK after the text's end, and its masks."""

    start: int
    tokens: list[int]
    draws: list[Draw]

    def sums(self) -> list[float]:
        """A zero for each group of draws, to add its weighted losses to; empty if no token is masked."""
        return [0.0] * (self.draws[-1].group + 1 if self.draws else 0)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, split into blocks."""

    ids: list[int]
    blocks: list[Block]
    exact: list[bool]  # for each block: whether all its masks are used
    openings: list[int]  # positions whose tokens are scored by AR logits
    reading: "Reading"  # the clean text, up to the last block

    @classmethod
    def of(cls, model: BlockModel, spec: DiffusionSpec, pair: Pair, size: int, samples: int, seed: int) -> "_Text":
        context, ids = len(pair[0]), [*pair[0], *pair[1]]
        source = random.Random(f"{seed} {size} {list(map(int, pair[0]))}")
        first = context - context % size if spec.block_grid == "absolute" else context
        found, exact, openings = [], [], []
        for start in range(first, len(ids), size):
            width = min(size, model.context_length - start)  # the context's end may shorten the last block
            own = ids[start : start + width]
            known = max(context - start, 0)
            if spec.first_token == "ar" and not known:
                openings.append(start)
                known = 1
            block = own + [spec.mask_token_id] * (width - len(own))
            maskable = range(known, len(own))
            found.append(Block(start, block, draws(maskable, samples, source)))
            exact.append(2 ** len(maskable) - 1 <= samples)
        whole = spec.context == "block_causal"
        reading = Reading(
            ids[: found[-1].start],
            [position - 1 for position in openings],
            [[ids[position]] for position in openings],
            size if whole else 1,
            context if whole and spec.block_grid == "prompt_end" else 0,
        )
        return cls(ids, found, exact, openings, reading)


def _bounds(model: BlockModel, texts: Sequence[_Text], size: int, copies: int) -> list[DiffusionLikelihood]:
    """Read the clean texts once, then score their blocks from the last to the first, each given the text before it. A
    denoise pass drops the tokens from its block's start on, which earlier blocks do not need."""
    session = open_session(model, [len(text.ids) for text in texts], size)
    opened = read(session, [text.reading for text in texts])
    session.select([row for row in range(len(texts)) for _ in range(copies)])
    sums = [[block.sums() for block in text.blocks] for text in texts]
    for number in reversed(range(max(len(text.blocks) for text in texts))):
        blocks = [text.blocks[number] if number < len(text.blocks) else None for text in texts]
        rounds = max(-(-len(block.draws) // copies) for block in blocks if block is not None)
        for turn in range(rounds):
            asked: list[tuple[Block, Draw] | None] = [None] * (len(texts) * copies)
            for row in range(len(asked)):
                block, draw = blocks[row // copies], turn * copies + row % copies
                if block is not None and draw < len(block.draws):
                    asked[row] = (block, block.draws[draw])
            losses = iter(denoise_losses(session, asked))
            for row, each in enumerate(asked):
                if each is not None:
                    sums[row // copies][number][each[1].group] += each[1].weight * next(losses)
    results = []
    for text, (log_probs, best), own in zip(texts, opened, sums):
        loss = math.fsum(value for groups in own for value in groups)
        error = _standard_error(own, text.exact)
        results.append(DiffusionLikelihood(math.fsum(log_probs) - loss, error, all(best)))
    return results


@torch.inference_mode()
def denoise_losses(session: Session, asked: Sequence[tuple[Block, Draw] | None]) -> list[float]:
    """One denoise pass: for each row that is not None, the summed -log p of its block's masked tokens, in nats."""
    spec = session.model.spec
    shift = 1 if spec.token_shift else 0
    passes, targets, counts = [], [], []
    for row, each in enumerate(asked):
        if each is None:
            passes.append(Pass.nothing(session.lengths[row]))
            continue
        block, draw = each
        noised = list(block.tokens)
        for index in draw.masked:
            noised[index] = spec.mask_token_id
        passes.append(Pass.denoise(noised, block.start, [index - shift for index in draw.masked]))
        targets += [block.tokens[index] for index in draw.masked]
        counts.append(len(draw.masked))
    if not targets:
        return []
    log_probs_N, _ = score(session.model, session.run(passes), targets)
    return [-float(part.double().sum()) for part in log_probs_N.split(counts)]


def _standard_error(sums: Sequence[Sequence[float]], exact: Sequence[bool]) -> float | None:
    """The standard error of the total of `sums`, which has, per block, the weighted loss of each group of draws. The
    groups of a block are independent and each estimates an equal share of its loss, so the variance between them gives
    the variance of their sum. None if a sampled block has only one group."""
    variance = 0.0
    for own, nothing_drawn in zip(sums, exact):
        if nothing_drawn:
            continue
        if len(own) < 2:
            return None
        variance += len(own) * statistics.variance(own)
    return math.sqrt(variance)


# -- input ------------------------------------------------------------------------------------------------


def _batches(pairs: Sequence[Pair], batch_size: int) -> Iterable[list[int]]:
    """Indices of the pairs in batches, the longest pairs first, so that the rows of a batch have similar lengths."""
    order = sorted(range(len(pairs)), key=lambda n: -len(pairs[n][0]) - len(pairs[n][1]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


def _check(model: BlockModel, pairs: Sequence[Pair], batch_size: int, longest: int) -> None:
    if batch_size < 1:
        raise SettingError(f"batch_size is {brief(batch_size)}; it must be at least 1.")
    for context, continuation in pairs:
        if not len(context) or not len(continuation):
            raise PromptError("A text to score has no token, or nothing before it; give at least one of each.")
        if len(context) + len(continuation) > longest:
            raise PromptError(
                f"A text to score is {len(context) + len(continuation)} tokens long with its context; "
                f"{model.name} has a context of {model.context_length}."
            )
        for token in (*context, *continuation):
            if not 0 <= token < model.vocab_size:
                raise PromptError(
                    f"A text to score holds the token id {brief(token)}; {model.name} has ids 0 to "
                    f"{model.vocab_size - 1}."
                )
            if token in model.never_predicted:
                raise PromptError(f"A text to score holds the MASK token (id {token}), which has no probability.")
