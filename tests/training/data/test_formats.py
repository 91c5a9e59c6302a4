"""Row formats found by column names, prompts encoded as in decoding, and one sentence for a row that fails."""

import logging

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nbdiff_engine.decoding import prompts
from tests.training.encoders import (
    ANSWER,
    CHATML,
    DROPS_THOUGHTS,
    EOS,
    LOADED,
    MASK,
    PLAIN,
    PROMPT,
    TEMPLATES,
    conversation,
    decoded_prompt,
    encoder_with,
    turns_of,
)
from training.data.data_settings import DataSettings
from training.data.encoder import Encoder
from training.data.formats import Format, detect_format, prompt_of
from training.errors import DataError


def asking(encoder: Encoder) -> Encoder:
    """The same encoder, in which names of control tokens become control tokens."""
    return Encoder(encoder.tokenizer, [EOS], forbidden_ids=[MASK], control_tokens=True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_an_answer_with_the_name_of_a_control_token_is_not_cut(template):
    encoder = encoder_with(template, forbidden_ids=[MASK])
    typed = "One writes <|im_end|> or <eos> or <mask> there."
    document = encoder.encode_messages(conversation(f"What is {typed}", typed, "And?", typed))
    harmless = encoder.encode_messages(conversation("What is x", "x", "And?", "x"))
    control = encoder.control.ids
    assert [id for id in document.ids if id in control] == [id for id in harmless.ids if id in control]
    assert len(document.turns) == len(harmless.turns)
    for answer in turns_of(encoder, document):
        assert typed in answer
    pair = encoder.encode_pair(typed, typed)
    assert list(pair.ids[: pair.turns[0][0]]) == decoded_prompt(encoder, typed)


@pytest.mark.parametrize("raw", [False, True])
def test_names_of_control_tokens_become_tokens_if_asked(raw, caplog):
    encoder = encoder_with(CHATML, raw=raw)
    assert [id in encoder.control.ids for id in encoder.encode_text("a <eos> b").ids].count(True) == 1  # the added EOS
    assert "data.control_tokens" in caplog.text
    asked = encoder_with(CHATML, raw=raw, control_tokens=True)
    assert [id in asked.control.ids for id in asked.encode_text("a <eos> b").ids].count(True) == 2
    assert turns_of(asked, asked.encode_pair("a", "b<|im_end|>c")) == ["b<|im_end|>"]
    assert turns_of(encoder, encoder.encode_pair("a", "b<|im_end|>c"))[0].startswith("b<|im_end|>c")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_prompt_is_encoded_as_the_engine_encodes_it(template, bos):
    encoder = encoder_with(template, bos_before_template=bos)
    encoder.tokenizer.bos_token = "<user>"
    for prompt in (PROMPT, "  spaces and\n\nlines \n", "x" * 500):
        document = encoder.encode_pair(prompt, ANSWER)
        ((start, stop),) = document.turns
        assert list(document.ids[:start]) == decoded_prompt(encoder, prompt)
        assert stop == len(document.ids)
        assert document.ids[-1] in encoder.eos_token_ids
        assert (document.ids[0] == encoder.tokenizer.bos_token_id) == bos


@pytest.mark.parametrize("raw", [False, True])
def test_without_a_template_or_raw_a_prompt_is_plain_text(raw):
    encoder = encoder_with(CHATML if raw else None, raw=raw)
    document = encoder.encode_pair(PROMPT, " Lima.")
    ((start, _),) = document.turns
    assert list(document.ids[:start]) == decoded_prompt(encoder, PROMPT)
    assert turns_of(encoder, document) == [" Lima.<|im_end|>"]


def test_the_golden_checkpoint_has_the_same_prompts_in_training_and_decoding(encoder, golden_model):
    document = encoder.encode_pair(PROMPT, ANSWER)
    ((start, _),) = document.turns
    assert list(document.ids[:start]) == prompts.encode(golden_model, PROMPT)[1]
    assert turns_of(encoder, document) == [ANSWER + "<eos>"]


def test_a_tokenizer_that_begins_texts_with_a_space_adds_none_before_an_answer():
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bpe.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", "[A]"])
    bpe.train_from_iterator([PROMPT, ANSWER], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{{ '[A]' if loop.first else '</s>' }}{% endfor %}"
    )
    encoder = Encoder(tokenizer, [2])
    document = encoder.encode_pair(PROMPT, ANSWER)
    expected = tokenizer(f"{PROMPT}[A]{ANSWER}</s>", add_special_tokens=False)["input_ids"]
    assert list(document.ids) == expected


# Turns.


@pytest.mark.parametrize("name", ["chatml", "opens thought", "trimmed"])
def test_a_turn_is_an_answer_through_its_eos(name):
    encoder = encoder_with(TEMPLATES[name])
    assert turns_of(encoder, encoder.encode_pair(PROMPT, ANSWER)) == [ANSWER + "<|im_end|>"]


def test_an_eos_is_appended_if_the_template_writes_none():
    encoder = encoder_with(PLAIN)
    document = encoder.encode_pair(PROMPT, ANSWER)
    assert turns_of(encoder, document) == [ANSWER + "\n<|im_end|>"]
    assert encoder.tokenizer.decode(document.ids).startswith(f"User: {PROMPT}\nBot: ")


def test_for_a_set_of_eos_the_one_of_the_tokenizer_is_appended():
    assert [Encoder(LOADED, ids).encode_text("a").ids[-1] for ids in ({5, EOS}, [5, EOS], {5})] == [EOS, 5, 5]


def test_every_answer_of_a_conversation_is_a_turn_after_the_prompt_of_decoding():
    encoder = encoder_with(CHATML)
    messages = conversation("Hello", "Hi there.", "Peru?", "Lima.", "And Germany?", "Berlin.", system="Be brief.")
    document = encoder.encode_messages(messages)
    assert turns_of(encoder, document) == ["Hi there.<|im_end|>", "Lima.<|im_end|>", "Berlin.<|im_end|>"]
    for (start, _), known in zip(document.turns, (2, 4, 6)):
        assert list(document.ids[:start]) == decoded_prompt(encoder, messages[:known])
    assert encoder.last_turn_only == 0


def test_messages_after_the_last_answer_are_left_out():
    encoder = encoder_with(CHATML)
    assert encoder.encode_messages(conversation("a", "b", "c")) == encoder.encode_messages(conversation("a", "b"))


def test_a_greeting_of_the_assistant_is_context():
    encoder = encoder_with(CHATML)
    document = encoder.encode_messages([{"role": "assistant", "content": "Welcome."}, *conversation("Hello", "Hi.")])
    assert turns_of(encoder, document) == ["Hi.<|im_end|>"]
    assert "Welcome." in encoder.tokenizer.decode(document.ids)


def test_if_the_template_changes_earlier_answers_only_the_last_is_a_turn_and_a_warning_is_logged(caplog):
    encoder = encoder_with(DROPS_THOUGHTS)
    messages = conversation("Hello", "hm</think>Hi.", "Peru?", "easy</think>Lima.")
    with caplog.at_level(logging.WARNING):
        document = encoder.encode_messages(messages)
    assert turns_of(encoder, document) == ["easy</think>Lima.<|im_end|>"]
    assert list(document.ids[: document.turns[0][0]]) == decoded_prompt(encoder, messages[:3])
    assert encoder.last_turn_only == 1
    assert "last answer only" in caplog.text
    assert len(encoder.encode_messages(conversation("Hello", "Hi.", "Peru?", "Lima.")).turns) == 2


def test_if_the_template_writes_no_eos_only_the_last_answer_is_a_turn():
    encoder = encoder_with(PLAIN)
    messages = conversation("Hello", "Hi.", "Peru?", "Lima.")
    document = encoder.encode_messages(messages)
    assert turns_of(encoder, document) == ["Lima.\n<|im_end|>"]
    assert list(document.ids[: document.turns[0][0]]) == decoded_prompt(encoder, messages[:3])


def test_an_answer_ends_at_its_first_eos(encoder):
    assert turns_of(encoder, asking(encoder).encode_pair(PROMPT, "Lima.<eos> Or so.")) == ["Lima.<eos>"]


def test_all_tokens_of_plain_text_are_trained_on(encoder):
    document = encoder.encode_text(ANSWER)
    assert document.turns is None
    assert encoder.tokenizer.decode(document.ids) == ANSWER + "<eos>"


@pytest.mark.parametrize(
    ("encode", "sentence"),
    [
        (lambda encoder: encoder.encode_pair(" ", "a"), "The prompt is empty"),
        (lambda encoder: encoder.encode_pair("a", ""), "The completion is empty"),
        (lambda encoder: encoder.encode_text("a\ud800"), "half of a surrogate pair"),
        (lambda encoder: asking(encoder).encode_text("a <mask>"), "'<mask>' \\(token id 1\\)"),
        (lambda encoder: asking(encoder).encode_pair("a", "<mask>"), "'<mask>'"),
        (lambda encoder: encoder.encode_messages(conversation("a")), "no answer of the assistant"),
        (lambda encoder: encoder.encode_messages([]), "no answer of the assistant"),
        (lambda encoder: encoder.encode_messages(conversation("a", " ")), "message of the assistant is empty"),
        (lambda encoder: encoder.encode_messages(["a"]), "is not {'role'"),
        (lambda encoder: encoder.encode_messages(None), "must be a list of messages"),
        (lambda encoder: Encoder(LOADED, []), "no end-of-sequence token"),
    ],
)
def test_a_row_that_cannot_be_encoded_raises_one_sentence(encoder, encode, sentence):
    with pytest.raises(DataError, match=sentence):
        encode(encoder)


def test_a_template_that_refuses_and_a_missing_template_raise_one_sentence():
    refusing = encoder_with("{{ raise_exception('no system message here') }}")
    with pytest.raises(DataError, match="refuses this conversation: no system message here"):
        refusing.encode_messages(conversation("a", "b"))
    for encoder in (encoder_with(None), encoder_with(CHATML, raw=True)):
        with pytest.raises(DataError, match="needs a chat template"):
            encoder.encode_messages(conversation("a", "b"))


@pytest.mark.parametrize(
    ("columns", "settings", "expected"),
    [
        (["id", "text"], {}, ("text", "text")),
        (["prompt", "completion"], {}, ("prompt", "prompt", "completion")),
        (["question", "answer"], {}, ("prompt", "question", "answer")),
        (["instruction", "output"], {}, ("prompt", "instruction", "output")),
        (["output", "input", "instruction"], {}, ("prompt", "instruction", "output", "input")),
        (["input", "output"], {}, ("prompt", "input", "output")),
        (["id", "prompt", "answer"], {}, ("prompt", "prompt", "answer")),
        (["prompt", "question", "answer"], {}, ("prompt", "question", "answer")),
        (["query", "Response"], {}, ("prompt", "query", "Response")),
        (["prompt", "completion", "messages"], {}, ("messages", "messages")),
        (["prompt", "completion", "messages"], {"raw": True}, ("prompt", "prompt", "completion")),
        (["prompt", "completion", "text"], {"format": "text"}, ("text", "text")),
        (["conversations"], {"format": "messages"}, ("messages", "conversations")),
        (["q", "answer"], {"columns": {"prompt": "q"}}, ("prompt", "q", "answer")),
        (["q", "a", "text"], {"columns": {"prompt": "q", "completion": "a"}}, ("prompt", "q", "a")),
        (["q", "a", "of"], {"columns": {"prompt": "q", "completion": "a", "input": "of"}}, ("prompt", "q", "a", "of")),
        (["Prompt", "COMPLETION"], {}, ("prompt", "Prompt", "COMPLETION")),
        (["body", "text"], {"columns": {"text": "body"}}, ("text", "body")),
    ],
)
def test_the_format_is_found_by_the_column_names(columns, settings, expected):
    assert detect_format(columns, DataSettings.of(source="x", **settings)) == Format(expected[0], expected[1:])


def test_a_column_of_system_prompts_is_read():
    found = detect_format(["id", "system_prompt", "question", "response"], DataSettings.of(source="x"))
    assert found == Format("prompt", ("question", "response"), (("system", "system_prompt"),))
    row = {"system_prompt": "Be brief.", "question": "a", "response": "b"}
    assert found.conversation(row).messages == conversation("a", "b", system="Be brief.")
    assert prompt_of(row).messages == conversation("a", system="Be brief.")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "the columns are a, b"),
        ({"format": "text"}, "no column 'text'; the columns are a, b"),
        ({"columns": {"text": "c"}}, "no column 'c' for the text; the columns are a, b"),
        ({"columns": {"prompt": "a"}}, "no column 'prompt' with 'completion'"),
    ],
)
def test_the_error_for_a_missing_column_lists_the_columns_that_exist(settings, sentence):
    with pytest.raises(DataError, match=sentence):
        detect_format(["a", "b"], DataSettings.of(source="x", **settings))
