"""Prompts for the base: every format of training, places of errors, and answers that are not read."""

import json
from pathlib import Path

import datasets
import pytest

from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.tasks import DOMAINS
from nbdiff_engine.tasks.held_out import held_out_prompts
from tests.training.data.self_data import COUNT, documents, of, write
from training.corpus.chat_prompts import chat_prompt
from training.corpus.problems import example
from training.data.given_prompts import read_prompts
from training.data.self_author import Author
from training.errors import DataError


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("Name three colours.\n\n2 + 2 =\nWrite a story about a fox.\n", encoding="utf-8")
    return path


def test_every_form_of_a_line_is_read(golden_model, tmp_path):
    path = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    messages.append({"role": "user", "content": "2 + 2?"})
    lines = ["Name a colour.", {"prompt": "Name a bird.", "id": 3}, {"messages": messages}]
    path.write_text("\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    found = documents(write(golden_model, of(prompts=str(path)), tmp_path))
    for (ids, turns), prompt in zip(found, ["Name a colour.", "Name a bird.", messages]):
        assert ids[: turns[0][0]] == encode(golden_model, prompt)[1]
        assert turns == [[turns[0][0], len(ids)]]


def test_every_format_of_training_is_a_source_of_prompts(golden_model, tmp_path):
    asked = "Name a colour."
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": "Red."}]
    (tmp_path / "a.csv").write_text(f"Question,Answer\n{asked},Red.\n")
    datasets.Dataset.from_list([{"prompt": asked, "completion": "Red."}]).to_parquet(tmp_path / "a.parquet")
    for name, row in {
        "a": {"text": asked},
        "b": {"instruction": "Name", "input": "a colour.", "output": "Red."},
        "c": {"messages": turns},
        "d": {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": "Red."}]},
        "e": {"prompt": turns[:1], "completion": turns[1:]},
        "f": {"prompt": asked, "history": [["Hi.", "Yes?"]], "system": "Be kind."},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    history = [("system", "Be kind."), ("user", "Hi."), ("assistant", "Yes?"), ("user", asked)]
    expected = {
        "b.jsonl": "Name\n\na colour.",
        "f.jsonl": [{"role": role, "content": text} for role, text in history],
    }
    for path in sorted(tmp_path.iterdir()):
        author = Author.of(golden_model, of(prompts=str(path)))
        assert author.prompts == [encode(golden_model, expected.get(path.name, asked))[1]], path.name


def test_an_answer_that_is_given_is_regenerated(golden_model, tmp_path):
    path = tmp_path / "given.jsonl"
    texts = ["Hi.", "GIVEN ONE", "2 + 2?", "GIVEN TWO"]
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    path.write_text(json.dumps({"messages": messages}))
    for ids, turns in documents(write(golden_model, of(prompts=str(path)), tmp_path / "cache")):
        ((start, stop),) = turns
        assert ids[:start] == encode(golden_model, messages[:3])[1]
        assert stop == len(ids)
        assert "GIVEN TWO" not in golden_model.tokenizer.decode(ids)


def test_one_bad_prompt_among_many_is_left_out(golden_model, tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(['"fine"'] * 120 + ['{"prompt": " "}', '{"prompt": ']))
    with pytest.raises(DataError, match=r"Of 122 rows, \d cannot be used; data\.bad_rows allows 0\.1 %"):
        Author.of(golden_model, of(prompts=str(path)).model_copy(update={"bad_rows": 0.001}))
    assert len(Author.of(golden_model, of(prompts=str(path))).prompts) == 120
    assert "Line 121" in caplog.text
    assert "Line 122" in caplog.text


def test_raw_prompts_do_not_use_the_template(golden_model, prompts, tmp_path):
    settings = of(prompts=str(prompts)).model_copy(update={"raw": True})
    ids, turns = documents(write(golden_model, settings, tmp_path))[0]
    assert ids[: turns[0][0]] == golden_model.tokenizer("Name three colours.")["input_ids"]


def test_chat_prompts_are_of_all_kinds_and_never_those_that_are_held_out():
    found = [prompt for _, prompt in read_prompts(of(seed=3, prompts="chat", documents=200))]
    assert len(set(found)) > 150
    assert found[3] == chat_prompt("code", "train", 3, seed=3)
    assert not set(found) & {prompt for _, prompt in held_out_prompts()}


def test_prompts_of_the_corpus_come_from_all_domains_in_turn():
    found = read_prompts(of(seed=3, prompts="corpus"))
    assert [prompt for _, prompt in found] == [example(DOMAINS[i % 4], "train", i, 3).prompt for i in range(COUNT)]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.txt", b" \n\n", "contains no prompt"),
        ("p.jsonl", b"", "contains no prompt"),
        ("p.txt", b"fine\n\xff\xfe\n", "Line 2 of .* is not UTF-8"),
        ("p.jsonl", b'"fine"\n\n{"prompt": \n', "Line 3 of .* is not JSON"),
        ("p.jsonl", b'{"topic": "x"}\n', "Line 1 of .* contains no prompt; .*, not topic"),
        ("p.jsonl", b"[1, 2]\n", "Line 1 of .* contains no prompt"),
        ("p.jsonl", b'{"messages": [{"role": "system", "content": "x"}]}\n', "Line 1 of .* no message of the user"),
        ("p.jsonl", b'"fine"\n{"prompt": " "}\n', "Line 2 of .* cannot be used. The prompt is empty"),
        ("p.jsonl", b'{"messages": [{"role": "user"}]}\n', "Line 1 of .* cannot be used"),
        ("p.txt", b"word " * 2000, "Line 1 of .* cannot be used. .*tokens long"),
        ("p.csv", b"topic\nx", "Row 1 of .* contains no prompt; .*, not topic"),
        ("p.bin", b"x", "unsupported kind"),
    ],
)
def test_the_error_for_an_unusable_prompt_names_the_line(golden_model, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        write(golden_model, of(prompts=str(tmp_path / name)), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_missing_file_of_prompts_raises_one_sentence(golden_model, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(of(prompts=str(tmp_path / "none.txt")))
