"""A caller's prompt as token ids, checked before decoding starts.

A `str` is a user message if the tokenizer has a chat template, and plain text otherwise or with raw=True.
A list of `{"role", "content"}` dicts is a conversation; a turn of the assistant at its end is continued.
A list of ints, an array or a tensor is used as token ids without a change, and so are the "input_ids" of what a
tokenizer returns, without the padding that its "attention_mask" names.

The names of control tokens in a text, such as "<|im_end|>", are text, unless control_tokens=True asks for the tokens.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from nbdiff_engine.decoding.chat import read_turns, render, require_text
from nbdiff_engine.decoding.control_tokens import LONG_TOKEN, ControlTokens
from nbdiff_engine.errors import PromptError, brief
from nbdiff_engine.model.block_model import BlockModel

Prompt = str | Sequence[int] | Sequence[dict[str, Any]] | Mapping[str, Any]

_BESIDE_IDS = ("attention_mask", "token_type_ids", "special_tokens_mask", "length")  # what a tokenizer also returns
_controls: WeakKeyDictionary[BlockModel, ControlTokens] = WeakKeyDictionary()


def as_prompts(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts, and whether a batch was given: a list of prompts, an array or tensor of two dimensions, or such
    "input_ids" of a tokenizer. Raises PromptError."""
    if isinstance(prompt, Mapping):
        return _of_encoding(prompt)
    if _is_array(prompt):
        if prompt.ndim > 2:
            raise PromptError(f"The prompt is an array of {prompt.ndim} dimensions; give one, or two for a batch.")
        return (_rows(prompt), True) if prompt.ndim == 2 else ([_ids_of(prompt)], False)
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return [prompt], False
    if any(_is_id(part) or (isinstance(part, Mapping) and "input_ids" not in part) for part in prompt):
        return [prompt], False  # token ids, or a conversation
    return [_single(part) for part in prompt], True


def _single(part: Any) -> Prompt:
    """One prompt of a batch. A tensor or an encoding of one row counts as one prompt."""
    if not isinstance(part, Mapping) and not _is_array(part):
        return part
    prompts, _ = as_prompts(part)
    if len(prompts) != 1:
        raise PromptError(f"A prompt of the list holds {len(prompts)} rows of token ids; give one prompt in each.")
    return prompts[0]


def _is_array(value: Any) -> bool:
    """Whether a value is an array or a tensor, of at least one dimension."""
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _is_id(part: Any) -> bool:
    """Whether a value counts as a token id: an integer of Python, numpy or torch, but not a bool."""
    return hasattr(part, "__index__") and not isinstance(part, bool) and not _is_array(part)


def _rows(array: Any) -> list[list[int]]:
    return [_ids_of(row) for row in array]


def _ids_of(array: Any) -> list[int]:
    ids = array.tolist()
    if any(type(each) is not int for each in ids):
        raise PromptError(f"The prompt is an array of {array.dtype}; token ids are integers.")
    return ids


def _of_encoding(encoding: Mapping[str, Any]) -> tuple[list[Prompt], bool]:
    """The ids that a tokenizer returned, without padding."""
    if "input_ids" not in encoding:
        raise PromptError("The prompt is a dict without 'input_ids'; a conversation is a list of dicts.")
    unknown = next((key for key in encoding if key not in ("input_ids", *_BESIDE_IDS)), None)
    if unknown is not None:
        raise PromptError(f"The prompt has {brief(unknown)} beside 'input_ids'; this engine reads token ids only.")
    ids, batch = as_prompts(encoding["input_ids"])
    if encoding.get("attention_mask") is None:
        return ids, batch
    masks, _ = as_prompts(encoding["attention_mask"])
    if [len(own) for own in ids] != [len(own) for own in masks]:
        raise PromptError("The prompt's 'input_ids' and 'attention_mask' are not of one shape.")
    return [[id for id, kept in zip(own, mask) if kept] for own, mask in zip(ids, masks)], batch


def control_tokens_of(model: BlockModel) -> ControlTokens:
    """The control tokens of a model: those of its tokenizer, its EOS tokens and MASK."""
    found = _controls.get(model)
    if found is None or found.tokenizer is not model.tokenizer:
        found = _controls[model] = ControlTokens(_tokenizer(model), (*model.eos_token_ids, *model.never_predicted))
    return found


def require_words(prompt: str) -> None:
    """Raises PromptError for a prompt without a word. A turn of a conversation may be empty."""
    if not prompt.strip():
        raise PromptError("The prompt is empty; write something for the model to answer.")


def encode(
    model: BlockModel,
    prompt: Prompt,
    raw: bool = False,
    *,
    control_tokens: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
) -> tuple[str | None, list[int]]:
    """The text that the model reads (None for token ids) and its ids.

    control_tokens: whether the names of control tokens in the prompt become these tokens; if not, they are text.
    template_arguments: further arguments of the chat template, such as enable_thinking, tools or documents.

    Raises PromptError for an empty prompt, a prompt that leaves no room in the context, ids outside the
    vocabulary, or the MASK token, which decoding would treat as a position to fill.
    """
    if isinstance(prompt, Mapping) or _is_array(prompt):
        prompt = _single(prompt)
    if isinstance(prompt, str):
        require_words(prompt)
    elif not isinstance(prompt, (list, tuple)):
        raise PromptError(f"The prompt is a {type(prompt).__name__}; give a string, token ids or a conversation.")
    elif not prompt:
        raise PromptError("The prompt is empty; give at least one token.")
    elif all(_is_id(part) for part in prompt):
        if template_arguments:
            raise PromptError("The prompt is token ids, and template_arguments are for a template; leave them out.")
        ids = [operator.index(part) for part in prompt]
        _check(model, ids)
        return None, ids
    elif raw:
        raise PromptError("raw=True takes the prompt as text; a conversation is written by the chat template.")
    tokenizer, control = _tokenizer(model), control_tokens_of(model)
    mark = control.escape if control_tokens else control.mark
    if isinstance(prompt, str):
        require_text(prompt)
        _require_possible(model, [prompt])
    if isinstance(prompt, str) and (raw or not tokenizer.chat_template):
        if template_arguments:
            raise PromptError("The prompt is plain text, and template_arguments are for a template; leave them out.")
        marked = mark(prompt)
        ids = control.encode(marked, add_special_tokens=True)
    else:
        turns = read_turns([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        _require_possible(model, [turn["content"] for turn in turns])
        marked = render(model.name, tokenizer, turns, template_arguments, mark)
        # The template writes all special tokens, except the BOS of the families in `families.py` that need one.
        ids = control.encode(marked)
        bos = tokenizer.bos_token_id
        if model.bos_before_template and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
    _check(model, ids)
    return control.unmark(marked), ids


def _tokenizer(model: BlockModel):
    if model.tokenizer is None:
        raise PromptError(f"{model.name} has no tokenizer; give the prompt as a list of token ids.")
    return model.tokenizer


def _require_possible(model: BlockModel, texts: Sequence[str]) -> None:
    """Raises PromptError for texts that no encoding fits into the context. To encode them first could take minutes."""
    length = sum(map(len, texts))
    if length <= model.context_length * LONG_TOKEN:
        return  # most prompts; nothing of the vocabulary is read for them
    most = model.context_length * control_tokens_of(model).most_characters
    if length > most:
        raise PromptError(
            f"The prompt is {length:,} characters long; {model.name} has a context of {model.context_length} tokens, "
            f"into which at most {most:,} characters fit."
        )


def _check(model: BlockModel, ids: list[int]) -> None:
    if not ids:
        raise PromptError("The prompt is empty: it holds no token.")
    outside = next((token for token in ids if not 0 <= token < model.vocab_size), None)
    if outside is not None:
        raise PromptError(
            f"The prompt holds the token id {brief(outside)}; {model.name} has ids 0 to {model.vocab_size - 1}."
        )
    mask = next((token for token in ids if token in model.never_predicted), None)
    if mask is not None:
        raise PromptError(f"The prompt holds the MASK token (id {mask}), which marks positions to fill; take it out.")
    if len(ids) >= model.context_length:
        raise PromptError(
            f"The prompt is {len(ids)} tokens long; {model.name} has a context of {model.context_length}, "
            f"so a prompt may hold at most {model.context_length - 1}."
        )
