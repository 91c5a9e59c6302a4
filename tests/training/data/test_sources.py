"""Files and hub data sets as documents, and one sentence for every error."""

import gzip
import json
import logging
import re

import datasets
import pyarrow as pa
import pytest

from nbdiff_engine.errors import NBDiffError
from tests.training.encoders import conversation, encoder_with, written
from training.data.conversations import earlier_turns, read_messages, read_tools
from training.data.data_settings import DataSettings
from training.data.dataset import open_source
from training.data.documents import Document
from training.data.encoder import Encoder
from training.data.sources import load_rows
from training.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")


def read_all(encoder: Encoder, settings: DataSettings) -> list[Document]:
    train, _ = open_source(settings, encoder)
    return [train[index] for index in range(len(train))]


def error_of(encoder: Encoder, source, **settings) -> str:
    """The error of reading all documents of a source."""
    with pytest.raises(NBDiffError) as caught:
        read_all(encoder, DataSettings.of(source=str(source), held_out=0, **settings))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def test_an_input_is_joined_to_its_instruction(tmp_path, encoder):
    rows = [
        {"instruction": "Translate.", "input": "Lima", "output": "Lima"},
        {"instruction": "Name a capital.", "input": "", "output": "Lima"},
    ]
    train, _ = open_source(DataSettings.of(source=written(tmp_path / "a.jsonl", rows), held_out=0), encoder)
    assert train[0] == encoder.encode_pair("Translate.\n\nLima", "Lima")
    assert train[1] == encoder.encode_pair("Name a capital.", "Lima")


def test_sharegpt_conversations_are_read(tmp_path, encoder):
    messages = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "b"},
    ]
    source = written(tmp_path / "a.json", [{"conversations": messages}])
    train, _ = open_source(DataSettings.of(source=source), encoder)
    assert train[0] == encoder.encode_messages(conversation("a", "b", system="Be brief."))


def test_a_conversation_may_be_json_text(tmp_path, encoder):
    """As in a column of a CSV file, where nothing else fits."""
    messages, tools = conversation("a", "b", "c", "d"), [{"type": "function", "function": {"name": "look"}}]
    lists = [
        {"messages": messages},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ]
    for number, row in enumerate(lists):
        ((name, value),) = row.items()
        text = json.dumps(value)
        quoted = text.replace('"', '""')
        (tmp_path / f"{number}.csv").write_text(f'{name},id\n"{quoted}",1\n')
        files = [written(tmp_path / f"{number}.jsonl", [{name: text}]), str(tmp_path / f"{number}.csv")]
        expected, _ = open_source(DataSettings.of(source=written(tmp_path / f"list{number}.jsonl", [row])), encoder)
        for source in files:
            train, _ = open_source(DataSettings.of(source=source), encoder)
            assert [train[index] for index in range(len(train))] == [expected[0]]
    assert read_messages(json.dumps(messages)) == messages
    assert read_tools(json.dumps(tools)) == tools
    assert earlier_turns('[["a", "b"]]') == conversation("a", "b")
    assert (earlier_turns(" "), read_tools("")) == ([], None)
    for read, wrong in [(read_messages, "[{'role': 'user'}]"), (read_tools, "look"), (earlier_turns, "5")]:
        with pytest.raises(DataError, match=r"list.*JSON text"):
            read(wrong)


# Files.


def test_every_kind_of_file_is_read(tmp_path, encoder):
    rows = [{"prompt": f"number {number}", "completion": str(number)} for number in range(4)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    written(tmp_path / "odd [name]*.jsonl", rows)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    lines = [f"{row['prompt']},{row['completion']}" for row in rows]
    (tmp_path / "a.csv").write_text("\n".join(["prompt,completion", *lines]))
    for path in sorted(tmp_path.iterdir()):
        train, held_out = open_source(DataSettings.of(source=str(path), held_out=0), encoder)
        assert [train[index] for index in range(4)] == [encoder.encode_pair(**row) for row in rows]
        assert (train.name, len(held_out)) == (path.name, 0)


@pytest.mark.parametrize("name", ["data", "examples"])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_rows_of_a_json_object_are_read(tmp_path, encoder, name, indent):
    rows = [{"prompt": f"number {number}", "completion": str(number), "tools": []} for number in range(3)]
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({"version": "1.0", name: rows, "tags": ["x"]}, indent=indent), "utf-8")
    train, _ = open_source(DataSettings.of(source=str(path), held_out=0), encoder)
    assert [train[index] for index in range(3)] == [encoder.encode_pair(f"number {n}", str(n)) for n in range(3)]


def test_an_object_that_is_a_row_stays_one(tmp_path, encoder):
    tool = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}
    single = {"messages": conversation("a", "b"), "tools": [tool]}
    several = [{"messages": conversation("a", "b")}, {"messages": conversation("c", "d")}]
    (tmp_path / "single.json").write_text(json.dumps(single, indent=1))
    for source, count in [(str(tmp_path / "single.json"), 1), (written(tmp_path / "several.json", several), 2)]:
        assert len(open_source(DataSettings.of(source=source, held_out=0), encoder)[0]) == count
    two_lists = tmp_path / "two.json"
    two_lists.write_text(json.dumps({"train": [{"text": "a"}], "test": [{"text": "b"}]}))
    assert "the columns are train, test" in error_of(encoder, two_lists)


def test_the_text_of_a_csv_file_is_not_changed(tmp_path, encoder):
    (tmp_path / "a.csv").write_text('\ufeffquestion,answer\nx,007\ny,None\n"z, and\nmore",1.50\n', encoding="utf-8")
    train, _ = open_source(DataSettings.of(source=str(tmp_path / "a.csv"), held_out=0), encoder)
    expected = [("x", "007"), ("y", "None"), ("z, and\nmore", "1.50")]
    assert [train[index] for index in range(3)] == [encoder.encode_pair(*pair) for pair in expected]


def test_a_text_file_is_split_at_blank_lines(tmp_path, encoder):
    (tmp_path / "a.txt").write_text("One.\nStill one.\r\n\r\nTwo.\n\n\n\nThree.\n", newline="")
    train, _ = open_source(DataSettings.of(source=str(tmp_path / "a.txt"), held_out=0), encoder)
    texts = [encoder.tokenizer.decode(train[index].ids).strip() for index in range(len(train))]
    assert texts[0] == "One.\nStill one.<eos>"
    assert len(texts) == 3


def test_the_files_of_a_folder_are_read_in_order(tmp_path, encoder):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("not data")
    for name in ("b.jsonl", "a.json", "deep/c.jsonl", ".hidden/d.jsonl"):
        written(tmp_path / name, [{"text": name}])
    rows = load_rows(DataSettings.of(source=str(tmp_path)))
    assert rows["text"] == ["a.json", "b.jsonl", "deep/c.jsonl"]
    (tmp_path / "e.csv").write_text("text\nx")
    for name in ("LICENSE.txt", "readme.txt", "dataset_info.json"):
        (tmp_path / name).write_text("not data")
    assert "files of several kinds, such as a.json and e.csv" in error_of(encoder, tmp_path)
    (tmp_path / "e.csv").unlink()
    assert load_rows(DataSettings.of(source=str(tmp_path)))["text"] == rows["text"]


def test_packed_files_other_delimiters_and_saved_data_sets_are_read(tmp_path, encoder):
    rows = [{"prompt": f"one, {number}", "completion": str(number)} for number in range(4)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    with pa.CompressedOutputStream(pa.OSFile(str(tmp_path / "a.jsonl.zst"), "wb"), "zstd") as file:
        file.write(lines)
    (tmp_path / "a.tsv").write_text("Prompt\tCompletion\n" + "\n".join("\t".join(row.values()) for row in rows))
    (tmp_path / "b.csv").write_text("prompt;completion\n" + "\n".join(";".join(row.values()) for row in rows))
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "splits")
    for path in sorted(tmp_path.iterdir()):
        assert read_all(encoder, DataSettings.of(source=str(path), held_out=0)) == [
            encoder.encode_pair(**row) for row in rows
        ], path.name
    assert "has no split 'test'; it has train" in error_of(encoder, tmp_path / "splits", split="test")


@pytest.mark.parametrize(
    ("name", "first", "rows", "bad", "sentence"),
    [
        ("a.jsonl", b"", b'{"text": "a"}', b'{"text": "caf\xe9"}', "Line 200 of .* is not UTF-8"),
        ("a.jsonl", b"", b'{"text": "a"}', b'{"text": ', "Line 200 of .* is not JSON"),
        ("a.jsonl", b"", b'{"text": "a"}', b'{"text": 7}', "Row 200 of .* 'text' is 7"),
        ("a.csv", b"id,text\n", b"1,a", b"1,caf\xe9", "Line 201 of .* is not UTF-8"),
        ("a.csv", b"id,text\n", b"1,a", b"1,b,c", "Line 201 of .* has 3 values, but the first line 2"),
    ],
)
def test_one_bad_row_among_many_is_left_out_and_named(tmp_path, encoder, caplog, name, first, rows, bad, sentence):
    path = tmp_path / name
    path.write_bytes(first + b"\n".join([rows] * 199 + [bad] + [rows] * 100))
    assert len(read_all(encoder, DataSettings.of(source=str(path), held_out=0))) == 299
    assert re.search(sentence, caplog.text)
    assert re.search(sentence, error_of(encoder, path, bad_rows=0.001))


def test_at_most_five_bad_rows_are_named(tmp_path, encoder, caplog):
    source = written(tmp_path / "a.jsonl", [{"text": "a"}] * 90 + [{"text": 7}] * 10)
    assert len(read_all(encoder, DataSettings.of(source=source, held_out=0, bad_rows=0.1))) == 90
    assert "10 of 100 rows are left out" in caplog.text
    assert caplog.text.count("Row 9") == 5


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in ("before", "after"):
        settings = DataSettings.of(source=written(path, [{"text": text}]))
        assert load_rows(settings)["text"] == [text]


def test_rows_with_blank_text_are_left_out_and_counted(tmp_path, encoder, caplog):
    rows = [{"text": "a"}, {"text": " \n"}, {"text": "c"}]
    with caplog.at_level(logging.WARNING):
        source = written(tmp_path / "a.jsonl", rows)
        train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    assert [train[index] for index in range(len(train))] == [encoder.encode_text(text) for text in "ac"]
    assert "1 of 3 rows" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b\n{"text": "c"}', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", '{"text": "a"}\n\n{"text"', "Line 3 of .*a.jsonl is not JSON"),
        ("a.jsonl", '{"text": "a"}\n"b"', "Line 2 of .*a.jsonl is not a JSON object"),
        ("a.json", '[{"text": "a"},\n{"text"]', "Line 2 of .*a.json is not JSON"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "is not UTF-8"),
        ("a.txt", b"a\ncaf\xe9", "Line 2 of .*a.txt is not UTF-8"),
        ("a.csv", b"text\ncaf\xe9", "Line 2 of .*a.csv is not UTF-8"),
        ("a.csv", "text\na\nb,c", "Line 3 of .*a.csv has 2 values, but the first line 1"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.jsonl", "", "is empty"),
        ("a.json", "[]", "contains no rows"),
        ("a.jsonl", "\n\n", "contains no rows"),
        ("a.txt", "\n \n\n \n", "only blank text"),
        ("a.csv", "text\n", "contains no rows"),
        ("a.bin", "x", "unsupported kind; give a file of .jsonl"),
        ("a.jsonl", '{"a": 1, "b": 2}', "the columns are a, b"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}', "Row 2 of a.jsonl .*'text' is None"),
        ("a.jsonl", '{"text": "a"}\n{"texts": "b"}', "Row 2 of a.jsonl .*'text' is None"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": 7}', "Row 3 of a.jsonl .*'text' is 7"),
        ("a.jsonl", '{"text": ["a"]}', "Row 1 of a.jsonl"),
        ("a.jsonl", '{"messages": "a"}', "Row 1 of a.jsonl .*must be a list of messages"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', "Row 1 of .*no answer of the assistant"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "Row 1 of .*type 'image'"),
        ("a.jsonl.gz", "no gzip", "a.jsonl.gz cannot be unpacked"),
        ("a.jsonl", '{"Ask": "b", "Reply": "c"}', "--set 'data.columns={prompt: Ask, completion: Reply}'"),
    ],
)
def test_the_error_for_a_wrong_file_is_one_sentence(tmp_path, encoder, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(sentence, error_of(encoder, path))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("data/nosuch.jsonl", "There is no file data/nosuch.jsonl"),
        ("nosuch", "not a file, not a folder, and not a hub id"),
        ("a\0b", "not a file"),
        ("x" * 5000, "not a file"),
        ("~nosuch/x", "not a file"),
        ("self", "written by the checkpoint"),
    ],
)
def test_a_source_that_does_not_exist_raises_one_sentence(encoder, source, sentence):
    assert sentence in error_of(encoder, source)


def test_an_empty_folder_and_hub_settings_for_a_file_raise_one_sentence(tmp_path, encoder):
    assert "contains no file of .jsonl" in error_of(encoder, tmp_path)
    source = written(tmp_path / "a.jsonl", [{"text": "a"}])
    assert "leave it out" in error_of(encoder, source, subset="main")
    assert "has only 'train'" in error_of(encoder, source, split="test")


def test_conversations_need_a_chat_template(tmp_path):
    source = written(tmp_path / "a.jsonl", [{"messages": conversation("a", "b")}])
    assert "has no chat template" in error_of(encoder_with(None), source)


def test_a_hub_id_offline_is_answered_at_once(encoder, connections):
    assert "HF_HUB_OFFLINE is set" in error_of(encoder, "someone/some-data")
    assert connections == []


def test_a_hub_that_does_not_answer_is_asked_once(encoder, monkeypatch, connections):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in error_of(encoder, "someone/some-data")
    assert len(connections) == 1
    assert not datasets.config.HF_HUB_OFFLINE
