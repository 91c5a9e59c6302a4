"""The text of an answer, token by token: decoded incrementally, so that no token is decoded more than a few times.

A single token has no fixed text: a character may take several tokens, and some tokenizers write the space before a word
only if another word precedes it. So each token is decoded together with the few tokens before it, and its piece is what
it adds. The text of an answer is the pieces joined. For tokens that form valid UTF-8 this is the tokenizer's own text.
"""

import codecs
import json
import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

_LOST = "\ufffd"  # what a decoder writes for bytes that are not a character
_MOST_TOKENS = 4  # that one character can take: UTF-8 has at most 4 bytes
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a token of byte fallback, as in the tokenizers of Llama 2


def _byte_level_table() -> dict[str, int]:
    """The character for each byte in the vocabulary of a byte-level BPE (GPT-2): printable bytes are written as
    themselves, the others have the code points from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level_table()


class TokenTexts:
    """What a tokenizer says of single tokens.

    special_ids: the tokens that are not part of an answer's text: those that the tokenizer marks as special, and
    `hidden`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hidden: Iterable[int] = ()):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {id for id, each in added.items() if each.special}
        self.special_ids = special.union(tokenizer.all_special_ids, hidden)
        decoders = _decoders(tokenizer)
        self.byte_level, self.byte_fallback = "ByteLevel" in decoders, "ByteFallback" in decoders
        self._word: tuple[list[int], str] | None = None
        self._bytes: dict[int, bytes] = {}

    def decode(self, ids: Sequence[int]) -> str:
        shown = [token for token in ids if token not in self.special_ids]
        return self.tokenizer.decode(shown, skip_special_tokens=True)

    def alone(self, token: int) -> str:
        """The text of a token after some word; of a special token, its name."""
        if token in self.special_ids:
            return self.tokenizer.decode([token])
        if self._word is None:
            word = self.tokenizer("a", add_special_tokens=False)["input_ids"]
            self._word = word, self.tokenizer.decode(word)
        word, text = self._word
        both = self.tokenizer.decode([*word, token])
        # The second case: a tokenizer that joins the two, or removes a space before the token.
        return both[len(text) :] if both.startswith(text) else self.tokenizer.decode([token])

    def special_names(self) -> dict[int, str]:
        """The names of the special tokens, by id."""
        names = {token: self.tokenizer.convert_ids_to_tokens(token) for token in self.special_ids}
        return {token: name for token, name in names.items() if name}

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token of a byte-level tokenizer, or of a token of byte fallback; else b""."""
        if token not in self._bytes:
            self._bytes[token] = self._find_bytes(token)
        return self._bytes[token]

    def partial(self, token: int) -> bytes | None:
        """The bytes of a token that begins or ends within a character; None for a token of whole characters."""
        found = b"" if token in self.special_ids else self.bytes_of(token)
        try:
            found.decode()
        except UnicodeDecodeError:
            return found
        return None

    def _find_bytes(self, token: int) -> bytes:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None or not (self.byte_level or self.byte_fallback):
            return b""
        if self.byte_level:
            found = [_BYTE_OF.get(letter) for letter in name]
            return name.encode() if None in found else bytes(found)
        match = _BYTE.fullmatch(name)
        return bytes.fromhex(match[1]) if match else b""


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The types of the decoders of a tokenizer; empty for one that is not of the library `tokenizers`."""
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {each["type"] for each in state.get("decoders", [state])}


class TextDecoder:
    """Decodes tokens one by one. A character of several tokens is in the piece of the last of them."""

    def __init__(self, texts: TokenTexts):
        self._texts = texts
        self._window: list[int] = []  # the tokens that are decoded together with the next one
        self._fresh = 0  # how many of them, from the end on, are not yet followed by a whole character
        self._shown = ""  # the part of the window's text that is given out
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that this token adds: "" for a special token, and for one that leaves a character incomplete."""
        texts = self._texts
        if token in texts.special_ids:
            return ""
        self._window.append(token)
        self._fresh += 1
        if texts.byte_level or texts.byte_fallback:
            found = texts.bytes_of(token)
            if not found:  # a word ends a character of byte fallback, complete or not
                self._utf8.reset()
            letters = self._utf8.decode(found)
            waits = len(self._utf8.getstate()[0])
            if found and not texts.byte_level:
                return self._add_byte(letters, waits)
            text = texts.decode(self._window)
            if waits:
                text = text.removesuffix(_LOST)
        else:
            text = texts.decode(self._window)
            waits = text.endswith(_LOST) and self._fresh < _MOST_TOKENS
            if waits:
                return ""
        return self._give(text, bool(waits))

    def _add_byte(self, letters: str, waits: int) -> str:
        """Byte fallback: `letters` are complete with this byte, and the last `waits` bytes are not.

        The tokenizer writes only replacement characters for a row of byte tokens with an invalid byte in it; here the
        others stay characters, because they are shown already.
        """
        if letters:
            self._window = self._window[-(waits or self._fresh) :]
            self._fresh = waits
            self._shown = "" if waits else self._texts.decode(self._window)
        return letters

    def end(self) -> str:
        """The rest: replacement characters for a character that stays incomplete."""
        return self._give(self._texts.decode(self._window), False) if self._fresh else ""

    def _give(self, text: str, waits: bool) -> str:
        if text.startswith(self._shown):
            piece = text[len(self._shown) :]
        else:  # the new token changes how the decoder writes those before it
            piece = self._texts.decode(self._window[len(self._window) - self._fresh :])
        if waits:
            self._shown += piece
            return piece
        self._window = self._window[len(self._window) - self._fresh :]
        self._fresh = 0
        self._shown = self._texts.decode(self._window)
        return piece


class _Ends:
    """Searches a growing text for stop strings. It holds only as much of the text as a match can begin in."""

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._room = max(map(len, stops)) - 1
        self._text = ""
        self._offsets: list[int] = []  # by character of `_text`: its place in the answer's text

    def add(self, text: str, offsets: Iterable[int]) -> int | None:
        """Append text; the offset where the first stop string begins that it completes."""
        keep = max(len(self._text) - self._room, 0)
        self._text, self._offsets = self._text[keep:] + text, [*self._offsets[keep:], *offsets]
        found = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        return self._offsets[min(found)] if found else None

    def held_from(self, end: int) -> int:
        """The offset from which the text may be the beginning of a stop string; `end` if it is not."""
        for at in range(max(len(self._text) - self._room, 0), len(self._text)):
            if any(stop.startswith(self._text[at:]) for stop in self._stops):
                return self._offsets[at]
        return end


class AnswerText:
    """The text of an answer while its tokens become final.

    pieces: the text that each token adds; they join to the whole text. cut: the offset of the first stop string.
    A stop string that names special tokens is searched for in the text with their names; it then cuts the text before
    them. Any other is searched for in the text as it is shown.
    """

    def __init__(self, texts: TokenTexts, stops: Sequence[str] = ()):
        self._texts = texts
        self._decoder = TextDecoder(texts)
        self.pieces: list[str] = []
        self.length = 0
        self._last = 0  # the last token that is not special
        self.cut: int | None = None
        self._plain = _Ends(stops) if stops else None
        self._names = texts.special_names() if stops else {}
        named = [stop for stop in stops if any(name in stop for name in self._names.values())]
        self._named = _Ends(named) if named else None

    def add(self, token: int) -> str:
        """Append a token; its piece."""
        piece = self._decoder.add(token)
        if token not in self._texts.special_ids:
            self._last = len(self.pieces)
        self.pieces.append(piece)
        self._search(piece)
        if self._named is not None and token in self._names:
            name = self._names[token]
            self._found(self._named.add(name, [self.length] * len(name)))
        return piece

    def end(self) -> str:
        """The answer has ended: the rest of its text, which becomes part of the piece of its last token with text."""
        rest = self._decoder.end()
        if rest:
            self.pieces[self._last] += rest
            self._search(rest)
        return rest

    @property
    def text(self) -> str:
        """The text so far, up to the first stop string."""
        return "".join(self.pieces)[: self.cut]

    @property
    def certain_length(self) -> int:
        """The length of the text that later tokens cannot cut: without the possible beginning of a stop string."""
        if self.cut is not None:
            return self.cut
        return min((each.held_from(self.length) for each in (self._plain, self._named) if each), default=self.length)

    def _search(self, piece: str) -> None:
        offsets = range(self.length, self.length + len(piece))
        self.length += len(piece)
        for ends in (self._plain, self._named):
            if ends is not None and piece:
                self._found(ends.add(piece, offsets))

    def _found(self, offset: int | None) -> None:
        # In one step the earlier of two matches counts. Later ones are after the end of the answer.
        if offset is not None:
            self.cut = offset if self.cut is None else min(self.cut, offset)
