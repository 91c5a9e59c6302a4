"""Text as token ids, without control tokens: what a person types is text, even if it is the name of a control token.

Control tokens are the tokens that a tokenizer marks as special (`<|im_end|>`), the EOS tokens and MASK. A chat template
writes them on purpose around contents that may contain the same names. `mark` replaces the names in a content by
placeholders, which a template treats as any other letters; `encode` then encodes the template's names as control
tokens, and the names that the placeholders replace as text.
"""

import re
import threading
from collections.abc import Iterable
from functools import cached_property

from transformers import AddedToken, PreTrainedTokenizerBase

from nbdiff_engine.errors import PromptError, brief

# A placeholder is this character and one that tells which name it replaces. Both are for private use in Unicode, so no
# template treats them as spaces or tags. The mark itself, if a text contains it, is replaced as the name number 0.
_MARK = "\U0010fffd"
_FIRST = 0x100000
LONG_TOKEN = 64  # characters

# `encode` switches the tokenizer, which the threads of the page share, between two modes.
_one_at_a_time = threading.RLock()


class ControlTokens:
    """The control tokens of a tokenizer. others: ids of further ones, such as the EOS of the checkpoint and MASK."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, others: Iterable[int] = ()):
        self.tokenizer = tokenizer
        added, others = tokenizer.added_tokens_decoder, set(others)
        ids = {id for id, each in added.items() if each.special} | set(tokenizer.all_special_ids) | others
        names = {id: tokenizer.convert_ids_to_tokens(id) for id in sorted(ids)}
        self._ids = {name: id for id, name in names.items() if name}
        self._names = [_MARK, *self._ids]
        last = chr(_FIRST + len(self._names) - 1)
        self._placeholder = re.compile(f"{_MARK}([{chr(_FIRST)}-{last}])")
        self._added = {name: added.get(id) for name, id in self._ids.items()}
        # Text that the vocabulary lacks becomes UNK, which is no control token unless it is an EOS too, as in GPT-2.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, *others}
        self._not_text = ids - unknown
        by_length = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, by_length)))

    @cached_property
    def most_characters(self) -> int:
        """The most characters that one token stands for; at least LONG_TOKEN, as a normaliser may remove some."""
        return max(LONG_TOKEN, max(map(len, self.tokenizer.get_vocab())))

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    def named_in(self, text: str) -> str | None:
        """The first name of a control token in a text."""
        return next((found[0] for found in self._pattern.finditer(text) if found[0] != _MARK), None)

    def mark(self, text: str) -> str:
        """The text with a placeholder for each name of a control token. `encode` then encodes it as text."""
        return self._pattern.sub(lambda found: _MARK + chr(_FIRST + self._names.index(found[0])), text)

    @staticmethod
    def escape(text: str) -> str:
        """The text in the form that `encode` reads, with its names of control tokens as control tokens."""
        return text.replace(_MARK, _MARK + chr(_FIRST))

    def unmark(self, marked: str) -> str:
        """The inverse of `mark` and of `escape`."""
        return self._placeholder.sub(lambda found: self._names[ord(found[1]) - _FIRST], marked)

    def encode(self, marked: str, add_special_tokens: bool = False) -> list[int]:
        """The ids of a marked text: names that are not marked become control tokens, marked ones stay text.

        add_special_tokens: whether the tokenizer adds the tokens that it puts around a text, such as a BOS.
        """
        with _one_at_a_time:
            if _MARK not in marked:
                return self._encode(marked, add_special_tokens)
            if add_special_tokens:
                return self._with_added(marked)
            ids: list[int] = []
            end = 0
            for start, stop in self._stretches(marked):
                ids += self._encode(marked[end:start])
                ids += self._as_text(self.unmark(marked[start:stop]), after_control=start > 0)
                end = stop
            return ids + self._encode(marked[end:])

    def _encode(self, text: str, add_special_tokens: bool = False, split: bool = False) -> list[int]:
        if not text and not add_special_tokens:
            return []
        found = self.tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=split, verbose=False)
        return found["input_ids"]

    def _with_added(self, marked: str) -> list[int]:
        """With the tokens that the tokenizer puts before and after a text; they are those around a plain letter."""
        bare, whole = self._encode("a"), self._encode("a", add_special_tokens=True)
        at = next((n for n in range(len(whole) - len(bare) + 1) if whole[n : n + len(bare)] == bare), len(whole))
        return [*whole[:at], *self.encode(marked), *whole[at + len(bare) :]]

    def _stretches(self, marked: str) -> list[tuple[int, int]]:
        """The stretches [start, stop) between two control tokens that hold a placeholder.

        A tokenizer encodes each stretch between control tokens by itself, so one can be encoded in another mode.
        """
        stretches, start = [], 0
        for found in self._pattern.finditer(marked):
            if found[0] == _MARK:
                continue
            flags = self._added[found[0]] or AddedToken(found[0])
            stop = found.start()
            if flags.lstrip:
                stop = start + len(marked[start:stop].rstrip())
            stretches.append((start, stop))
            start = found.end()
            if flags.rstrip:
                start += len(marked[start:]) - len(marked[start:].lstrip())
        stretches.append((start, len(marked)))
        return [(start, stop) for start, stop in stretches if _MARK in marked[start:stop]]

    def _as_text(self, text: str, after_control: bool) -> list[int]:
        ids = self._text_ids(text)
        if after_control and self._prefixes_first_text_only():
            # A text that is encoded alone gets the space of a first word, and this one is not the first.
            found = self.tokenizer("\n" + text, add_special_tokens=False, split_special_tokens=True, verbose=False)
            after = next((n for n in range(len(found["input_ids"])) if found.token_to_chars(n).start >= 1), None)
            if after and found.token_to_chars(after - 1).end == 1:
                ids = found["input_ids"][after:]
        if self._not_text.isdisjoint(ids):
            return ids
        return self._cut_through_names(text)

    def _text_ids(self, text: str) -> list[int]:
        return self._encode(text, split=True)

    def _prefixes_first_text_only(self) -> bool:
        """Whether the tokenizer adds a space before a text, but not before a text that follows a control token."""
        if not self.tokenizer.is_fast:
            return False
        name = next((each for each in self._names[1:] if self._encode(each) == [self._ids[each]]), None)
        return name is not None and self._encode(name + "a") != self._encode(name) + self._encode("a")

    def _cut_through_names(self, text: str) -> list[int]:
        """For control tokens that the tokenizer does not mark as special: each name is encoded in two parts."""
        parts, end = [], 0
        for found in self._pattern.finditer(text):
            parts.append(text[end : found.start() + 1])
            end = found.start() + 1
        parts.append(text[end:])
        ids = [id for part in parts for id in self._text_ids(part)]
        if not self._not_text.isdisjoint(ids):
            token = next(id for id in ids if id in self._not_text)
            name = self.tokenizer.convert_ids_to_tokens(token)
            raise PromptError(
                f"The text contains {brief(name)}, which this tokenizer encodes only as a control token; remove it."
            )
        return ids
