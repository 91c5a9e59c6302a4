"""Naive decoders: no cache and no batch; every step runs the network on the whole sequence.

They follow the description of the method and share no decoding code with the engine, so errors in the engine show.
"""

from collections.abc import Callable, Collection

import torch

from nbdiff_engine import BlockModel


@torch.inference_mode()
def logits_of(model: BlockModel, ids: list[int], allowed: torch.Tensor) -> torch.Tensor:
    """Logits [L, V] of a sequence under a boolean mask [L, L]; MASK can never be predicted."""
    out = model.network(input_ids=torch.tensor([ids]), attention_mask=allowed[None, None], use_cache=False)
    logits = out.logits[0].float()
    logits[:, model.spec.mask_token_id] = -torch.inf
    return logits


def causal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def naive_ar(model: BlockModel, prompt: list[int], count: int) -> list[int]:
    """Greedy AR, one token a forward."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits_of(model, ids, causal(len(ids)))[-1].argmax()))
    return ids[len(prompt) :]


def naive_block_diffusion(
    model: BlockModel,
    prompt: list[int],
    count: int,
    block_size: int,
    rule: float | Callable[[torch.Tensor], Collection[int]],
    sub_block_size: int | None,
    skip_after: int | None = None,
) -> list[int]:
    """Greedy NBDiff decoding: context-causal, shifted, blocks from the prompt's end.

    rule: a confidence threshold, or a function from the probabilities [masked, V] to the rows to fix. skip_after: the
    answer ends at this token id, and later positions of its block stay masked.
    """
    mask_id = model.spec.mask_token_id
    ids = list(prompt)
    sub = sub_block_size or block_size
    while len(ids) - len(prompt) < count:
        start = len(ids)
        ids.append(int(logits_of(model, ids, causal(start))[-1].argmax()))
        ids += [mask_id] * (block_size - 1)
        allowed = causal(len(ids))
        allowed[start:, start:] = True
        while mask_id in ids:
            low = start + (ids.index(mask_id) - start) // sub * sub
            masked = [i for i in range(low, min(low + sub, len(ids))) if ids[i] == mask_id]
            if skip_after in ids[start:]:
                end = ids.index(skip_after, start)
                if mask_id not in ids[start:end]:
                    return ids[len(prompt) : end + 1][:count]
                masked = [i for i in masked if i < end]
            probs = logits_of(model, ids, allowed)[[i - 1 for i in masked]].softmax(-1)
            chosen = rule(probs) if callable(rule) else above(probs, rule)
            for n in chosen:
                ids[masked[n]] = int(probs[n].argmax())
        if skip_after in ids[start:]:
            return ids[len(prompt) : ids.index(skip_after, start) + 1][:count]
    return ids[len(prompt) :][:count]


def above(probs: torch.Tensor, threshold: float) -> set[int]:
    """The confidence rule: the most confident position, and all positions strictly above the threshold."""
    confidence = probs.max(-1).values
    return {int(confidence.argmax())} | {n for n in range(len(probs)) if confidence[n] > threshold}


def naive_block_causal(
    model: BlockModel, prompt: list[int], count: int, block_size: int, threshold: float, shift: int
) -> list[int]:
    """Greedy decoding of a block-causal checkpoint. Blocks start at multiples of block_size in the whole sequence.

    The first block may start with the end of the prompt. shift 0: SDAR, BD3-LM. shift 1: Fast-dLLM v2, where the AR
    token is the first token of a block that contains no prompt token.
    """
    mask_id = model.spec.mask_token_id
    ids = list(prompt)

    def logits() -> torch.Tensor:
        block = torch.arange(len(ids)) // block_size
        return logits_of(model, ids, block[None, :] <= block[:, None])

    while len(ids) - len(prompt) < count:
        if shift and len(ids) % block_size == 0:
            ids.append(int(logits()[-1].argmax()))
        ids += [mask_id] * (-len(ids) % block_size)
        if not shift and mask_id not in ids:
            ids += [mask_id] * block_size
        while mask_id in ids:
            masked = [i for i, token in enumerate(ids) if token == mask_id]
            probs = logits()[[i - shift for i in masked]].softmax(-1)
            for n in above(probs, threshold):
                ids[masked[n]] = int(probs[n].argmax())
    return ids[len(prompt) :][:count]
