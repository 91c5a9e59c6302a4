"""Tokenizers of all kinds of files, without remote code, and the token that ends a turn."""

import base64
import json
import shutil

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import nbdiff_engine as nb
from nbdiff_engine.model.tokenizer_files import end_of_turn
from tests.conftest import GOLDEN

WHOLE = GOLDEN / "tiny-block-diffusion"
TEXT = "The capital of Peru is Lima."


@pytest.fixture
def folder(tmp_path):
    """A checkpoint without its tokenizer."""
    folder = shutil.copytree(WHOLE, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -- kinds of files -----------------------------------------------------------------------------------------


def test_tokenizer_json_is_used_although_the_config_names_remote_code(folder, tmp_path):
    shutil.copy(WHOLE / "tokenizer.json", folder)
    config = json.loads((WHOLE / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    tokenizer = nb.load(folder).tokenizer
    assert tokenizer.encode(TEXT) == nb.load(WHOLE).tokenizer.encode(TEXT)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    assert nb.load(folder).tokenizer is None


def test_a_snapshot_without_a_tokenizer_takes_ids_and_says_so_at_use(folder, caplog):
    shutil.copy(WHOLE / "tokenizer_config.json", folder)  # it alone is no tokenizer
    edit_config(folder, block_diffusion=None)
    model = nb.load(folder)
    assert "has no tokenizer: prompts must be token ids" in caplog.text
    assert nb.generate(model, [2, 440, 3], max_new_tokens=4).token_ids
    with pytest.raises(nb.PromptError, match="has no tokenizer"):
        nb.generate(model, "Hello")


def test_a_sentencepiece_model_is_read(folder):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    lines = [TEXT, "The capital of France is Paris.", "What is the capital of Japan?"] * 40
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=60,
        model_type="bpe",
        byte_fallback=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    tokenizer = nb.load(folder).tokenizer
    expected = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(TEXT)
    assert tokenizer.encode(TEXT, add_special_tokens=False) == expected
    assert tokenizer.decode(expected) == TEXT


def test_a_tiktoken_file_is_read(folder):
    tiktoken = pytest.importorskip("tiktoken")
    pieces = [bytes([byte]) for byte in range(256)] + [b"he", b"the", b" c", b" capital", b"Li", b"Lima"]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    lines = [f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    tokenizer = nb.load(folder).tokenizer
    encoding = tiktoken.Encoding("tiny", pat_str=r" ?\w+|\W", mergeable_ranks=ranks, special_tokens={})
    assert tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False)) == TEXT
    assert tokenizer.encode("Lima", add_special_tokens=False) == encoding.encode("Lima")


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.model").write_bytes(b"\x00\x01nothing")
    with pytest.raises(nb.CheckpointError, match=r"The tokenizer of .* cannot be loaded") as refused:
        nb.load(folder)
    assert "\n" not in str(refused.value)


# -- the end of a turn ----------------------------------------------------------------------------------------

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA3 = "{% for m in messages %}<|start|>{{ m.role }}<|end|>\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}"
)
ZEPHYR = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
NEXT_TURN = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
RAISES = "{{ raise_exception('no') }}"
CUTS = "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}"
SPECIAL = [
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|begin|>",
]


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_special_tokens(SPECIAL)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    wrapped.chat_template = template
    return wrapped


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (CHATML, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (ZEPHYR, "<eos>"),
        (NEXT_TURN, None),
        (PLAIN, None),
        (RAISES, None),
        (CUTS, None),
        (None, None),
    ],
)
def test_the_token_that_ends_a_turn(template, token):
    tokenizer = tokenizer_with(template)
    assert end_of_turn(tokenizer) == (None if token is None else tokenizer.convert_tokens_to_ids(token))


def test_an_answer_ends_with_the_turn_although_only_the_base_eos_is_named(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WHOLE)
    assert nb.load(WHOLE).eos_token_ids == nb.describe(WHOLE).eos_token_ids
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    ends = nb.load(folder).eos_token_ids
    assert ends == nb.describe(folder).eos_token_ids
    assert ends == nb.load(WHOLE).eos_token_ids | {tokenizer.convert_tokens_to_ids("<|im_end|>")}
