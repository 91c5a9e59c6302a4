"""The text of an answer, token by token, for the usual kinds of tokenizers and many scripts."""

import random
import time

import pytest

from nbdiff_engine.decoding.answer_text import AnswerText, TokenTexts
from tests.engine.decoding.tokenizer_kinds import KINDS, TEXTS, tokenizer_of


def written(tokenizer, ids, stops=()):
    answer = AnswerText(TokenTexts(tokenizer), stops)
    for token in ids:
        answer.add(token)
    answer.end()
    return answer


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", TEXTS)
def test_the_pieces_join_to_the_text_of_the_tokenizer(kind, script):
    tokenizer = tokenizer_of(kind)
    ids = ids_of(tokenizer, TEXTS[script])
    answer = written(tokenizer, ids)
    assert "".join(answer.pieces) == answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(answer.pieces) == len(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("script", TEXTS)
def test_no_piece_holds_a_part_of_a_character(kind, script):
    tokenizer = tokenizer_of(kind)
    texts = TokenTexts(tokenizer)
    ids = ids_of(tokenizer, TEXTS[script])
    answer = AnswerText(texts)
    before = ""
    for token in ids:
        piece = answer.add(token)
        assert "\ufffd" not in piece
        before += piece
        assert TEXTS[script].startswith(before)  # what is shown is never taken back
        if not piece and before:  # before the first word, some tokenizers have a token of a space alone
            assert texts.partial(token)
    assert before == TEXTS[script]


def test_a_character_is_in_the_piece_of_its_last_token():
    tokenizer = tokenizer_of("byte_fallback")
    ids = ids_of(tokenizer, "秘")
    pieces = written(tokenizer, ids).pieces
    assert pieces[-3:] == ["", "", "秘"]
    texts = TokenTexts(tokenizer)
    assert b"".join(texts.partial(token) for token in ids[-3:]) == "秘".encode()


def test_the_same_token_has_the_text_of_its_place():
    tokenizer = tokenizer_of("metaspace")
    word = tokenizer.convert_tokens_to_ids("▁c")
    assert written(tokenizer, [word, word]).pieces == ["c", " c"]
    assert TokenTexts(tokenizer).alone(word) == " c"  # after some word


def test_a_text_of_a_token_alone_keeps_its_space():
    for kind in ("byte_fallback", "metaspace"):
        tokenizer = tokenizer_of(kind)
        texts = TokenTexts(tokenizer)
        ids = ids_of(tokenizer, "The capital of Peru")
        assert "".join(texts.alone(token) for token in ids) == " The capital of Peru"
    wordpiece = tokenizer_of("wordpiece")
    texts = TokenTexts(wordpiece)
    assert "".join(map(texts.alone, ids_of(wordpiece, "capital Peru"))) == " capital Peru"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_add_no_text(kind):
    tokenizer = tokenizer_of(kind)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [*ids_of(tokenizer, "Lima is"), end, *ids_of(tokenizer, "old"), tokenizer.eos_token_id]
    answer = written(tokenizer, ids)
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert answer.pieces[-1] == ""
    assert TokenTexts(tokenizer).alone(end) == "<|im_end|>"


@pytest.mark.parametrize("size", [3, 40, 400])
def test_any_tokens_of_a_byte_level_tokenizer_give_its_own_text(size):
    """Bytes that are no characters too: each becomes the replacement character where the tokenizer writes one."""
    tokenizer = tokenizer_of("byte_level")
    for seed in range(20):
        ids = random.Random(seed).choices(range(len(tokenizer)), k=size)
        assert written(tokenizer, ids).text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_that_stays_incomplete_is_shown_at_the_end():
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = tokenizer_of(kind)
        ids = ids_of(tokenizer, "Lima 秘")[:-1]
        answer = written(tokenizer, [*ids, tokenizer.eos_token_id])
        assert answer.text.startswith("Lima ")
        assert answer.text.endswith("\ufffd")
        assert answer.pieces[-1] == ""
        assert answer.pieces[-2].endswith("\ufffd")


def test_invalid_bytes_do_not_change_the_text_before_them():
    """The tokenizer itself turns a whole run of byte tokens into replacement characters if one of them is invalid."""
    tokenizer = tokenizer_of("byte_fallback")
    bad = tokenizer.convert_tokens_to_ids("<0x80>")
    answer = written(tokenizer, [*ids_of(tokenizer, "秘"), bad, *ids_of(tokenizer, "鲁")[-3:]])
    assert answer.text == "秘\ufffd鲁"


def test_a_long_answer_takes_a_time_in_proportion_to_its_length():
    tokenizer = tokenizer_of("byte_level")
    ids = ids_of(tokenizer, TEXTS["chinese"] * 40)

    def seconds(count):
        begun = time.thread_time()
        written(tokenizer, ids[:count])
        return time.thread_time() - begun

    seconds(100)
    short, long = (min(seconds(count) for _ in range(3)) for count in (400, 3200))
    assert long < short * 8 * 3  # quadratic would be 64 times as long


# -- stop strings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_stop_string_cuts_the_text_where_it_begins(kind):
    tokenizer = tokenizer_of(kind)
    text = "The capital of Peru is Lima, isn't it?"
    answer = written(tokenizer, ids_of(tokenizer, text), ["ima, i", "Peru is L"])
    assert answer.text == "The capital of "
    assert "".join(answer.pieces) == text


def test_a_stop_string_may_hold_characters_of_several_tokens():
    tokenizer = tokenizer_of("byte_fallback")
    answer = AnswerText(TokenTexts(tokenizer), ["首都是"])
    ids = ids_of(tokenizer, TEXTS["chinese"])
    added = 0
    while answer.cut is None:
        answer.add(ids[added])
        added += 1
    assert answer.text == "秘鲁的"
    assert tokenizer.decode(ids[:added]) == "秘鲁的首都是"


def test_a_stop_string_may_name_a_special_token():
    tokenizer = tokenizer_of("byte_level")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [*ids_of(tokenizer, "Lima.\n"), end, *ids_of(tokenizer, "and")]
    for stop in ("<|im_end|>", "\n<|im_end|>", "<|im_end|>and", ".\n<|im_end|>a"):
        answer = written(tokenizer, ids, [stop])
        assert answer.text == "Lima.\n"[: 6 - len(stop.split("<")[0])], stop
    assert written(tokenizer, ids, ["\nand"]).text == "Lima."  # the text as it is shown
    assert written(tokenizer, ids, ["<s>"]).cut is None


def test_the_possible_beginning_of_a_stop_string_is_not_settled():
    tokenizer = tokenizer_of("byte_level")
    answer = AnswerText(TokenTexts(tokenizer), ["ab c", "\n<|im_end|>"])
    for text, certain in (("xyz", 3), ("a", 3), ("b", 3), ("d", 6), ("\n", 6), ("e", 8)):
        for token in ids_of(tokenizer, text):
            answer.add(token)
        assert answer.certain_length == certain, text
