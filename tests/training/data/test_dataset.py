"""Training and held-out documents: a fixed split of rows, and the splits of the project's corpus."""

import sys
import types
from collections import Counter, namedtuple

import numpy as np
import pytest

from tests.training.encoders import CHATML, conversation, encoder_with, turns_of, written
from training.data import dataset as dataset_module
from training.data import sources
from training.data.data_settings import DataSettings
from training.data.dataset import ENDLESS, CorpusSource, open_source
from training.data.held_out_split import split
from training.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")


def test_held_out_rows_are_not_in_train_and_do_not_change(tmp_path, encoder):
    source = written(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(50)])

    def opened(**settings):
        parts = open_source(DataSettings.of(source=source, **settings), encoder)
        return [{part[index].ids for index in range(len(part))} for part in parts]

    train, held_out = opened(held_out=5)
    assert (len(train), len(held_out)) == (45, 5)
    assert not train & held_out
    assert [train, held_out] == opened(held_out=5)
    assert held_out != opened(held_out=5, seed=1)[1]
    assert [len(part) for part in opened(held_out=64)] == [45, 5]
    assert [len(part) for part in opened(limit=7, held_out=2)] == [6, 1]
    assert [len(part) for part in opened(limit=1)] == [1, 0]


def test_a_document_does_not_change_and_a_wrong_index_raises_an_error(tmp_path, encoder):
    source = written(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(4)])
    train, held_out = open_source(DataSettings.of(source=source, held_out=1), encoder)
    assert len(train) == 3
    assert train[1] == train[1] == encoder.encode_text(encoder.tokenizer.decode(train[1].ids[:-1]))
    assert held_out.name == "a.jsonl, held out"
    for index in (3, -1):
        with pytest.raises(IndexError):
            train[index]


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
def test_the_process_that_logs_shows_the_progress_of_much_data(tmp_path, encoder, caplog, capsys, monkeypatch, level):
    monkeypatch.setattr(dataset_module, "_SOON", 0)
    monkeypatch.setattr(sources, "_LARGE", 100)
    source = written(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(50)])
    with caplog.at_level(level):
        open_source(DataSettings.of(source=source), encoder)
    shown = level == "INFO"
    assert ("a.jsonl: 0.0 GB are read into the cache" in caplog.text) == shown
    assert ("a.jsonl: " in capsys.readouterr().err) == shown


def test_rows_with_the_same_prompt_are_in_the_same_part(tmp_path, encoder):
    rows = [{"prompt": f"number {number // 3}", "completion": str(number)} for number in range(120)]
    source = written(tmp_path / "a.jsonl", rows)
    parts = open_source(DataSettings.of(source=source, held_out=12), encoder)
    asked = [{part[i].ids[: part[i].turns[0][0]] for i in range(len(part))} for part in parts]
    assert [len(part) for part in parts] == [108, 12]
    assert not asked[0] & asked[1]


def test_the_choice_depends_on_prompts_and_seed_and_not_on_the_order_of_the_documents():
    keys = list(range(-100, 100))
    train, held_out = split(keys, 7, 3, "x")
    assert sorted([*train, *held_out]) == list(range(200))
    chosen = [keys[index] for index in held_out]
    assert chosen == [keys[::-1][index] for index in split(keys[::-1], 7, 3, "x")[1]]
    assert len(chosen) == len(set(chosen)) == 7
    assert chosen != [keys[index] for index in split(keys, 7, 4, "x")[1]]
    drawn = np.concatenate([split(keys, 20, seed, "x")[1] for seed in range(200)])
    assert np.bincount(drawn, minlength=200).std() < 2 * 20**0.5  # about as often each


def test_documents_that_are_appended_move_no_document_of_the_training_part_to_the_held_out_one():
    keys = [int(each) for each in np.random.default_rng(0).integers(-(2**63), 2**63, 900)]
    before, kept = split(keys[:300], 20, 0, "x")
    _, now = split(keys, 20, 0, "x")
    assert not set(before) & set(now)
    assert set(kept) & set(now)


def test_one_prompt_for_all_documents_and_large_groups_can_still_be_held_out(caplog):
    assert [len(part) for part in split([1] * 30, 64, 0, "x")] == [27, 3]
    assert "all documents have the same prompt" in caplog.text
    assert [len(part) for part in split([1] * 10 + [2] * 8, 1, 0, "x")] == [10, 8]
    assert [len(part) for part in split([1], 64, 0, "x")] == [1, 0]
    assert [len(part) for part in split(range(9), 0, 0, "x")] == [9, 0]


QWEN = (  # as Qwen3's: only the last answer is written with a thought, which may be empty
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n{{ m['reasoning_content'] or '' }}\n</think>\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinks", [True, False])
def test_every_answer_is_a_document_if_the_template_changes_earlier_ones(tmp_path, thinks):
    arguments = {} if thinks else {"enable_thinking": False}
    encoder = encoder_with(QWEN, template_arguments=arguments)
    texts = ["a", "one", "b", "two", "c", "three", "d", "four"]
    source = written(tmp_path / "a.jsonl", [{"messages": conversation(*texts)}, {"messages": conversation("x", "y")}])
    train, _ = open_source(DataSettings.of(source=source, held_out=0, template_arguments=arguments), encoder)
    thought = "<think>\n\n</think>\n" if thinks else ""
    answers = ["one", "two", "three", "four", "y"]
    documents = [train[index] for index in range(len(train))]
    assert [turns_of(encoder, each) for each in documents] == [[f"{thought}{each}<|im_end|>"] for each in answers]
    for known, document in zip((1, 3, 5, 7), documents):
        prompt = encoder.tokenizer.apply_chat_template(
            conversation(*texts)[:known], tokenize=False, add_generation_prompt=True, **arguments
        )
        assert encoder.tokenizer.decode(document.ids[: document.turns[0][0]]) == prompt
    assert encoder.last_turn_only == 0


def test_a_template_argument_that_the_template_does_not_read_raises_one_sentence():
    with pytest.raises(DataError, match="does not read 'thinking'"):
        encoder_with(QWEN, template_arguments={"thinking": False})
    with pytest.raises(DataError, match="there is none"):
        encoder_with(None, template_arguments={"thinking": False})


TOOLS = (
    "{% if tools %}TOOLS {% for t in tools %}{{ t | tojson }}{% endfor %}\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}CALL {{ c['function'] | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "Two."},
]


def test_tool_calls_and_tools_are_written_by_the_template(tmp_path):
    encoder = encoder_with(TOOLS)
    tools = [{"name": "add", "parameters": {"a": "int"}}]
    others = {"messages": conversation("a", "b"), "tools": [{"name": "sub", "parameters": {"b": "int"}}]}
    source = written(tmp_path / "a.jsonl", [{"messages": CALLING, "tools": tools}, others])
    train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    text = encoder.tokenizer.decode(train[0].ids)
    assert text.startswith('TOOLS {"name": "add", "parameters": {"a": "int"}}<|im_start|>')
    assert turns_of(encoder, train[0]) == [
        'CALL {"name": "add", "arguments": {"a": 1}}<|im_end|>',
        "Two.<|im_end|>",
    ]


def test_what_the_template_does_not_write_is_counted_and_named(tmp_path, caplog):
    encoder = encoder_with(CHATML)
    thinking = conversation("a", "b")
    thinking[1]["reasoning_content"] = "hm"
    source = written(tmp_path / "a.jsonl", [{"messages": conversation("a", "b")}, {"messages": thinking}] * 3)
    train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    assert len(train) == 6
    assert "the reasoning_content of 3 rows is not trained on" in caplog.text
    assert "first rows: 2, 4, 6" in caplog.text


def test_a_tool_call_that_the_template_does_not_write_is_no_empty_answer(tmp_path, caplog):
    encoder = encoder_with(CHATML)
    source = written(tmp_path / "a.jsonl", [{"messages": CALLING}])
    train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    assert turns_of(encoder, train[0]) == ["Two.<|im_end|>"]
    assert "the tool_calls of 1 rows is not trained on" in caplog.text
    source = written(tmp_path / "b.jsonl", [{"messages": CALLING[:2]}])
    with pytest.raises(DataError, match="only answers are tool calls, which the chat template does not write"):
        open_source(DataSettings.of(source=source, held_out=0), encoder)


def test_roles_of_sharegpt_and_weights_of_openai_in_messages(tmp_path):
    encoder = encoder_with(CHATML)
    given = [{"role": "human", "content": "a"}, {"role": "bot", "content": "b", "weight": 0}]
    given += [{"role": "human", "content": "c"}, {"role": "bot", "content": "d", "weight": 1}]
    source = written(tmp_path / "a.jsonl", [{"messages": given}])
    train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    assert train[0].ids == encoder.encode_messages(conversation("a", "b", "c", "d")).ids
    assert turns_of(encoder, train[0]) == ["d<|im_end|>"]


def test_system_and_history_columns_message_lists_and_text_parts(tmp_path):
    encoder = encoder_with(CHATML)
    asked, answered = conversation("c", "d")
    expected = conversation("a", "b", "c", "d", system="Be brief.")
    short = conversation("c", "d", system="Be brief.")
    rows = {
        "alpaca": ({"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "Be brief."}, expected),
        "sharegpt": (
            {
                "system": "Be brief.",
                "conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}],
            },
            short,
        ),
        "trl": ({"prompt": [short[0], asked], "completion": [answered]}, short),
        "parts": ({"messages": [*short[:1], {**asked, "content": [{"type": "text", "text": "c"}]}, answered]}, short),
    }
    for name, (row, messages) in rows.items():
        source = written(tmp_path / f"{name}.jsonl", [row])
        train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
        assert train[0] == encoder.encode_messages(messages), name


def test_answers_in_a_prompt_of_messages_are_context(tmp_path):
    encoder = encoder_with(CHATML)
    messages = conversation("a", "b", "c", "d")
    source = written(tmp_path / "a.jsonl", [{"prompt": messages[:3], "completion": messages[3:]}])
    train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
    assert turns_of(encoder, train[0]) == ["d<|im_end|>"]


def test_a_row_is_encoded_once_until_the_cache_is_full(tmp_path, encoder, monkeypatch):
    rows = [{"prompt": f"ask {number}", "completion": f"reply {number}"} for number in range(6)]
    source = written(tmp_path / "a.jsonl", rows)

    def read_twice(room: int) -> int:
        """Rows that are encoded in two epochs."""
        monkeypatch.setattr(dataset_module, "_CACHED_BYTES", room)
        train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
        encoded, encode = [], train._encode
        monkeypatch.setattr(train, "_encode", lambda *key: encoded.append(key) or encode(*key))
        first = [train[index] for index in range(6)]
        assert [train[index] for index in range(6)] == first
        return len(encoded) + 1  # open_source reads the first row

    assert read_twice(2**28) == 6
    assert read_twice(0) == 13
    assert 6 < read_twice(1500) < 13


@pytest.fixture
def corpus(monkeypatch):
    """A stand-in for the corpus. Each prompt is the arguments of the call."""
    problem = namedtuple("problem", "prompt answer")
    tasks, package = types.ModuleType("nbdiff_engine.tasks"), types.ModuleType("training.corpus.problems")
    tasks.DOMAINS = ("add", "sort", "date")
    package.PARTS = tasks.DOMAINS
    package.example = lambda domain, split, index, seed=0: problem(f"{domain} {split} {index} {seed}", "Yes.")
    monkeypatch.setitem(sys.modules, "nbdiff_engine.tasks", tasks)
    monkeypatch.setitem(sys.modules, "training.corpus.problems", package)


def test_the_corpus_is_endless_and_draws_its_domains_by_weight(corpus, encoder):
    source = CorpusSource("train", 3, {"add": 1, "date": 3}, encoder)
    assert len(source) == ENDLESS
    last = ENDLESS - 1
    assert source[last] == encoder.encode_pair(f"{source.domain(last)} train {last} 3", "Yes.")
    drawn = Counter(source.domain(index) for index in range(4000))
    assert drawn["sort"] == 0
    assert 900 < drawn["add"] < 1100
    assert {CorpusSource("train", 3, None, encoder).domain(index) for index in range(50)} == {"add", "sort", "date"}
    with pytest.raises(IndexError):
        source[ENDLESS]


def test_the_corpus_holds_out_its_test_split(corpus, encoder):
    train, held_out = open_source(DataSettings.of(source="corpus", held_out=5, seed=2, weights={"sort": 1}), encoder)
    assert train[0] == encoder.encode_pair("sort train 0 2", "Yes.")
    assert held_out[0] == encoder.encode_pair("sort test 0 2", "Yes.")
    assert (len(train), len(held_out)) == (ENDLESS, 5)
    with pytest.raises(DataError, match="no domain 'chess'; it has add, sort, date"):
        open_source(DataSettings.of(source="corpus", held_out=0, weights={"chess": 1}), encoder)
