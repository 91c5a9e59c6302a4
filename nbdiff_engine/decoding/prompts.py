"""A caller's prompt as token ids, checked before decoding starts.

A `str` is a user message if the tokenizer has a chat template, and plain text otherwise or with raw=True.
A list of `{"role", "content"}` dicts is a conversation. A list of ints is used as token ids without a change.
"""

import operator
from collections.abc import Sequence
from typing import Any

from nbdiff_engine.errors import PromptError, brief, brief_text, is_text
from nbdiff_engine.model.block_model import BlockModel

Prompt = str | Sequence[int] | Sequence[dict[str, str]]


def is_batch(prompt: Any) -> bool:
    """Whether this is a list of prompts: neither a string, nor token ids, nor a conversation."""
    if isinstance(prompt, str) or not isinstance(prompt, (list, tuple)) or not prompt:
        return False
    return not any(isinstance(part, dict) or _is_id(part) for part in prompt)


def _is_id(part: Any) -> bool:
    """Whether a value counts as a token id: an integer of Python or numpy, but not a bool."""
    return hasattr(part, "__index__") and not isinstance(part, bool)


def encode(model: BlockModel, prompt: Prompt, raw: bool = False) -> tuple[str | None, list[int]]:
    """The text that the model reads (None for token ids) and its ids.

    Raises PromptError for an empty prompt, a prompt that leaves no room in the context, ids outside the
    vocabulary, or the MASK token, which decoding would treat as a position to fill.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise PromptError("The prompt is empty; write something for the model to answer.")
        text, ids = _encode_text(model, prompt, raw)
    elif hasattr(prompt, "tolist"):  # an array or a tensor of ids
        return encode(model, prompt.tolist(), raw)
    elif not isinstance(prompt, (list, tuple)):
        raise PromptError(f"The prompt is a {type(prompt).__name__}; give a string, token ids or a conversation.")
    elif not prompt:
        raise PromptError("The prompt is empty; give at least one token.")
    elif all(_is_id(part) for part in prompt):
        text, ids = None, [operator.index(part) for part in prompt]
    elif raw:
        raise PromptError("raw=True takes the prompt as text; a conversation is written by the chat template.")
    else:
        text, ids = _encode_conversation(model, prompt)
    _check(model, ids)
    return text, ids


def _encode_text(model: BlockModel, prompt: str, raw: bool) -> tuple[str, list[int]]:
    tokenizer = _tokenizer(model)
    _require_text(prompt)
    if raw or not tokenizer.chat_template:
        return prompt, tokenizer(prompt)["input_ids"]
    return _encode_conversation(model, [{"role": "user", "content": prompt}])


def _encode_conversation(model: BlockModel, turns: Sequence[Any]) -> tuple[str, list[int]]:
    tokenizer = _tokenizer(model)
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise PromptError("A conversation is a list of {'role': ..., 'content': ...} dicts, both strings.")
        _require_text(turn["content"])
    if not tokenizer.chat_template:
        raise PromptError(f"{model.name} has no chat template; give the prompt as text.")
    try:
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the checkpoint and may raise any exception
        raise PromptError(
            f"The chat template of {model.name} refuses this conversation: {brief_text(str(error), 200)}"
        ) from error
    # The template writes all special tokens, except the BOS of the families in `families.py` that need one.
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if model.bos_before_template and tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    return text, ids


def _require_text(text: str) -> None:
    if not is_text(text):
        raise PromptError("The prompt is not valid text: it contains half of a surrogate pair.")


def _tokenizer(model: BlockModel):
    if model.tokenizer is None:
        raise PromptError(f"{model.name} has no tokenizer; give the prompt as a list of token ids.")
    return model.tokenizer


def _check(model: BlockModel, ids: list[int]) -> None:
    if not ids:
        raise PromptError("The prompt is empty: it holds no token.")
    outside = next((token for token in ids if not 0 <= token < model.vocab_size), None)
    if outside is not None:
        raise PromptError(
            f"The prompt holds the token id {brief(outside)}; {model.name} has ids 0 to {model.vocab_size - 1}."
        )
    if model.spec is not None and model.spec.mask_token_id in ids:
        raise PromptError(
            f"The prompt holds the MASK token (id {model.spec.mask_token_id}), which marks positions to fill; "
            "take it out."
        )
    if len(ids) >= model.context_length:
        raise PromptError(
            f"The prompt is {len(ids)} tokens long; {model.name} has a context of {model.context_length}, "
            f"so a prompt may hold at most {model.context_length - 1}."
        )
