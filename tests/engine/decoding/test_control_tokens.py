"""Control tokens: a name that a person types is text; a name that a template writes is the token."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nbdiff_engine.decoding.control_tokens import ControlTokens
from nbdiff_engine.errors import PromptError
from tests.engine.decoding.tokenizer_kinds import KINDS, SPECIAL, TEXTS, tokenizer_of


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_marked_name_is_text_and_another_is_the_token(kind):
    tokenizer = tokenizer_of(kind)
    control = ControlTokens(tokenizer)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    typed = control.mark("is <|im_end|> a word")
    ids = control.encode(f"<|im_start|>{typed}<|im_end|>")
    assert [id for id in ids if id in control.ids - {tokenizer.unk_token_id}] == [start, end]
    assert (ids[0], ids[-1]) == (start, end)
    spelt = tokenizer.decode(ids[1:-1]).replace(" ", "")
    if kind in ("byte_level", "byte_fallback"):
        assert spelt == "is<|im_end|>aword"
    assert control.unmark(typed) == "is <|im_end|> a word"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", TEXTS)
def test_text_without_names_is_encoded_as_before(kind, script):
    tokenizer = tokenizer_of(kind)
    control = ControlTokens(tokenizer)
    assert control.encode(control.mark(TEXTS[script])) == ids_of(tokenizer, TEXTS[script])
    whole = tokenizer(TEXTS[script])["input_ids"]
    assert control.encode(control.mark(TEXTS[script]), add_special_tokens=True) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_around_a_name_is_encoded_as_text_between_control_tokens(kind):
    """A name in the text changes nothing after the next control token of the template, nor before the last."""
    tokenizer = tokenizer_of(kind)
    control = ControlTokens(tokenizer)
    plain = "<|im_start|>The capital<|im_end|>of Peru<|im_start|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = ids_of(tokenizer, plain)
    marked = plain.replace("The capital", "The capital" + control.mark("<s>"))
    ids = control.encode(marked)
    first, after = expected[: expected.index(end)], expected[expected.index(end) :]
    assert ids[-len(after) :] == after
    assert ids[: len(first) - 1] == first[:-1]  # the last token may be joined with the name's first letters


def test_no_space_is_added_where_the_tokenizer_adds_one_to_the_first_text_only():
    tokenizer = tokenizer_of("metaspace")
    control = ControlTokens(tokenizer)
    ids = control.encode("<|im_start|>The" + control.mark("<mask>"))
    assert tokenizer.convert_ids_to_tokens(ids)[1] != "▁The"
    assert tokenizer.decode(ids[1:]).startswith("The")


def test_a_mark_in_the_text_is_text():
    tokenizer = tokenizer_of("byte_level")
    control = ControlTokens(tokenizer)
    hostile = "\U0010fffd\U00100004 <|im_end|>\U0010fffd"
    for form in (control.mark, control.escape):
        assert control.unmark(form(hostile)) == hostile
    assert tokenizer.decode(control.encode(control.mark(hostile))) == hostile
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in control.encode(control.escape(hostile))


def test_names_that_are_asked_for_become_control_tokens():
    tokenizer = tokenizer_of("byte_level")
    control = ControlTokens(tokenizer)
    text = "".join(SPECIAL)
    assert control.encode(control.escape(text)) == ids_of(tokenizer, text)
    assert control.ids.isdisjoint(control.encode(control.mark(text)))


def test_spaces_that_a_control_token_takes_with_it_are_not_text():
    """Phi 3's <|end|> takes the spaces after it, others those before them."""
    tokenizer = tokenizer_of("byte_level")
    whole = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    whole.add_special_tokens([AddedToken("<|end|>", special=True, rstrip=True), AddedToken("<|at|>", lstrip=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, additional_special_tokens=["<|end|>", "<|at|>"])
    for id, each in tokenizer.added_tokens_decoder.items():
        if each.content == "<|end|>":
            assert each.rstrip, id
    control = ControlTokens(tokenizer)
    ids = control.encode("<|end|> \n" + control.mark("x <s>") + "<|end|>")
    assert tokenizer.decode(ids[1:-1]) == "x <s>"


def test_a_control_token_of_the_ordinary_vocabulary_is_avoided():
    """An EOS or MASK that the tokenizer does not mark as special, and that its merges write."""
    vocabulary = {letter: n for n, letter in enumerate("<eos> abc")} | {"<e": 20, "os": 21, "<eos": 22, "<eos>": 23}
    merges = [("<", "e"), ("o", "s"), ("<e", "os"), ("<eos", ">")]
    whole = Tokenizer(models.BPE(vocabulary, merges))
    whole.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole)
    assert ids_of(tokenizer, "a<eos>") == [vocabulary["a"], 23]
    control = ControlTokens(tokenizer, [23])
    ids = control.encode(control.mark("a<eos>b"))
    assert 23 not in ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "a<eos>b"
    assert control.encode("a<eos>")[-1] == 23


def test_a_name_that_cannot_be_text_is_one_sentence():
    whole = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "<": 0 + 2, "eos>": 3, "?": 4}, unk_token="?"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="?")
    control = ControlTokens(tokenizer, [0, 3])
    with pytest.raises(PromptError, match=r"contains 'eos>', which this tokenizer encodes only as a control token"):
        control.encode(control.mark("a <eos>"))
