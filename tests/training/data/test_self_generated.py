"""Documents that the base writes: sampled from its distribution, and independent of interruptions and batches."""

import copy
import errno
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import nbdiff_engine as nb
from nbdiff_engine.decoding.prompts import encode
from tests.conftest import GOLDEN
from tests.training.data.self_data import COUNT, TOKENS, documents, of, write
from tests.training.runs import losses, small_base, small_recipe
from training.data import self_author, self_generated
from training.data.data_settings import DataSettings
from training.data.given_prompts import read_prompts
from training.data.packing import Cursor, Packer
from training.data.self_author import Author
from training.data.self_generated import cache_folder, open_self, wait_for_self_data, write_self_data
from training.errors import DataError, RecipeError, RunError
from training.planning.without_weights import open_without_weights
from training.recipe.recipe import Recipe
from training.run.launch import start

CHECKPOINT = GOLDEN / "tiny-block-diffusion"
EOS, MASK, USER, BOT = 0, 1, 2, 3


def with_template(model, template: str | None, **tokens) -> nb.BlockModel:
    """The same network with another chat template."""
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(CHECKPOINT))
    tokenizer.chat_template = template
    for name, text in tokens.items():
        setattr(tokenizer, name, text)
    return nb.BlockModel(model.network, tokenizer, model.spec, "other")


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("Name three colours.\n\n2 + 2 =\nWrite a story about a fox.\n", encoding="utf-8")
    return path


# -- the documents ----------------------------------------------------------------------------------------


def test_answers_are_samples_of_the_base_at_temperature_1(golden_model, prompts, tmp_path):
    settings = of(seed=7, prompts=str(prompts))
    texts = [prompt for _, prompt in read_prompts(settings)]
    in_turn = [texts[number % 3] for number in range(COUNT)]
    encoded = [encode(golden_model, text)[1] for text in in_turn]
    outputs = nb.generate(
        golden_model, in_turn, strategy="ar", temperature=1.0, seed=7, max_new_tokens=TOKENS, trace=False
    )
    found = documents(write(golden_model, settings, tmp_path, batch_size=4))
    assert found == [
        (ids + output.token_ids, [[len(ids), len(ids) + len(output.token_ids)]])
        for ids, output in zip(encoded, outputs, strict=True)
    ]
    endings = {output.finish_reason: ids[-1] for (ids, _), output in zip(found, outputs, strict=True)}
    assert endings["length"] != EOS  # no EOS is appended to a cut answer


@pytest.mark.parametrize("batch_size", [3, 32])
def test_a_share_of_the_answers_is_greedy(golden_model, prompts, tmp_path, monkeypatch, batch_size):
    monkeypatch.setattr(self_author, "_RUN", 2)
    settings = of(seed=7, prompts=str(prompts), greedy=0.4)
    texts = [prompt for _, prompt in read_prompts(settings)]
    in_turn = [texts[number % 3] for number in range(COUNT)]
    options = {"strategy": "ar", "seed": 7, "max_new_tokens": TOKENS, "trace": False}
    sampled, greedy = (nb.generate(golden_model, in_turn, temperature=each, **options) for each in (1.0, 0.0))
    found = documents(write(golden_model, settings, tmp_path, batch_size=batch_size))
    answers = [ids[turns[0][0] :] for ids, turns in found]
    by_run = [sampled, sampled, greedy, sampled, greedy]  # two documents each
    assert answers == [by_run[number // 2][number].token_ids for number in range(COUNT)]
    assert [each.token_ids for each in sampled] != [each.token_ids for each in greedy]


def test_documents_with_the_same_prompt_differ(golden_model, tmp_path):
    (tmp_path / "one.txt").write_text("Name three colours.")
    found = documents(write(golden_model, of(prompts=str(tmp_path / "one.txt")), tmp_path))
    assert len({tuple(ids) for ids, _ in found}) > COUNT // 2


def test_without_prompts_the_model_writes_both_turns_and_only_its_answer_is_trained_on(golden_model, tmp_path, caplog):
    settings = of()
    caplog.set_level("INFO")
    file = write(golden_model, settings, tmp_path)
    found, numbers = documents(file), [json.loads(line)["number"] for line in file.read_text().splitlines()]
    outputs = nb.generate(
        golden_model, [[USER]] * 40, strategy="ar", temperature=1.0, seed=0, max_new_tokens=TOKENS, trace=False
    )
    texts = [[USER, *output.token_ids] for output in outputs]
    starts = {n: ids.index(BOT, 2) + 1 for n, ids in enumerate(texts) if BOT in ids[2:]}
    answered = [n for n, start in starts.items() if set(texts[n][start:]) - {EOS}]
    assert 0 < len(answered) < 40  # texts without an answer are left out, and the next numbers are written
    assert numbers == answered[:COUNT]
    assert found == [(texts[n], [[starts[n], len(texts[n])]]) for n in numbers]
    assert not any(MASK in ids for ids, _ in found)
    assert "those without an answer are left out" in caplog.text


def test_a_model_that_writes_no_answers_gives_up_with_one_sentence(golden_model, tmp_path, monkeypatch):
    monkeypatch.setattr(Author, "documents", lambda self, numbers, tick: [None] * len(numbers))
    with pytest.raises(DataError, match=r"wrote an answer for 0 of \d+ documents, and 10 are wanted"):
        write(golden_model, of(), tmp_path)


def test_if_an_eos_ends_the_users_turn_the_answer_follows_it(golden_model, tmp_path):
    model = with_template(
        golden_model,
        "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}",
    )
    author = Author.of(model, of(max_new_tokens=60))
    assert (author.opening, author.between) == ([USER], [BOT])
    written = author.documents(range(COUNT), lambda event: None)
    assert any(written)
    for document in filter(None, written):
        question = document.ids.index(EOS)
        assert document.ids[question + 1] == BOT
        assert document.turns == ((question + 2, len(document.ids)),)
    assert author.documents(range(4, 7), lambda event: None) == written[4:7]


def test_the_text_before_the_users_turn_is_not_sampled(golden_model):
    model = with_template(
        golden_model, "Be kind.\n{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Assistant:"
    )
    author = Author.of(model, of())
    assert model.tokenizer.decode(author.opening) == "Be kind.\nUser:"  # the model writes the space after it
    assert author.between is None
    assert model.tokenizer.decode(author.ending) == "\nAssistant:"


def test_without_a_template_a_document_begins_with_bos_or_else_with_eos(golden_model):
    assert Author.of(with_template(golden_model, None, bos_token="<bot>"), of()).opening == [BOT]
    assert Author.of(with_template(golden_model, None), of()).opening == [EOS]
    raw = of().model_copy(update={"raw": True})
    assert Author.of(golden_model, raw).opening == [EOS]


def test_another_seed_writes_other_documents(golden_model, tmp_path):
    found = [documents(write(golden_model, of(seed), tmp_path / str(seed))) for seed in (0, 1)]
    assert found[0] != found[1]


# -- the same documents after interruptions ---------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("given", [True, False])
def test_documents_do_not_depend_on_the_batches(golden_model, prompts, tmp_path, batch_size, given):
    settings = of(prompts=str(prompts) if given else None)
    complete = write(golden_model, settings, tmp_path / "complete", batch_size=4).read_bytes()
    assert write(golden_model, settings, tmp_path / "other", batch_size=batch_size).read_bytes() == complete


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97])
def test_a_file_that_a_kill_cut_is_completed_to_the_same_file(golden_model, tmp_path, share):
    file = write(golden_model, of(), tmp_path)
    complete = file.read_bytes()
    file.write_bytes(complete[: int(len(complete) * share)])
    assert write(golden_model, of(), tmp_path, batch_size=4).read_bytes() == complete


def test_a_damaged_part_of_the_file_is_written_again(golden_model, tmp_path):
    file = write(golden_model, of(), tmp_path)
    complete = file.read_bytes()
    middle = len(complete) // 2
    file.write_bytes(complete[:middle] + b"\0" * 50 + complete[middle + 50 :])
    assert write(golden_model, of(), tmp_path).read_bytes() == complete


def test_ctrl_c_keeps_the_finished_batches(golden_model, prompts, tmp_path, monkeypatch, caplog):
    complete = write(golden_model, of(prompts=str(prompts)), tmp_path / "complete").read_bytes()
    write_documents = Author.documents

    def stop_at_the_third(self, numbers, tick):
        if numbers[0] >= 8:
            raise KeyboardInterrupt
        return write_documents(self, numbers, tick)

    monkeypatch.setattr(Author, "documents", stop_at_the_third)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        write(golden_model, of(prompts=str(prompts)), tmp_path / "cut", batch_size=4)
    assert "8 of 10 documents" in caplog.text
    monkeypatch.setattr(Author, "documents", write_documents)
    file = tmp_path / "cut" / "documents.jsonl"
    assert complete.startswith(file.read_bytes())
    assert len(documents(file)) == 8
    assert write(golden_model, of(prompts=str(prompts)), tmp_path / "cut", batch_size=4).read_bytes() == complete


def test_written_documents_are_not_decoded_again(golden_model, tmp_path, monkeypatch):
    file = write(golden_model, of(), tmp_path)

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(self_author, "decode", refuse)
    assert write(golden_model, of(), tmp_path) == file
    assert wait_for_self_data(of(), tmp_path) == file


def test_the_progress_bar_is_on_standard_error(golden_model, tmp_path, capsys):
    write_self_data(golden_model, of(), tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert f"{COUNT}/{COUNT}" in output.err
    assert "tokens" in output.err


def test_a_full_disk_raises_one_sentence(golden_model, prompts, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(self_generated.os, "fsync", full)
    with pytest.raises(RunError, match="disk is full; the first 4 of 10 are kept"):
        write(golden_model, of(prompts=str(prompts)), tmp_path, batch_size=4)


def test_a_cache_that_cannot_be_created_raises_one_sentence(golden_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write(golden_model, of(), tmp_path / "file" / "cache")


def test_two_runs_do_not_write_to_the_same_file_at_once(golden_model, tmp_path):
    complete = write(golden_model, of(), tmp_path / "complete").read_bytes()
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(write, golden_model, of(), tmp_path / "shared", batch_size=2) for _ in range(2)]
        file = wait_for_self_data(of(), tmp_path / "shared")
    assert [run.result() for run in runs] == [file, file]
    assert file.read_bytes() == complete


# -- the cache's name -------------------------------------------------------------------------------------


def test_everything_that_changes_the_documents_changes_the_cache_folder(prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    bases = [small_base(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    same = small_base(tmp_path / "c", seed=0)
    given = of(prompts=str(prompts))

    def name(checkpoint=bases[0], settings=given, arithmetic="float32"):
        return cache_folder(checkpoint, settings, arithmetic)

    first = name()
    assert first.parent == tmp_path / "home" / "self-data"
    assert name() == first == name(same)
    others = [
        name(bases[1]),
        name(arithmetic="bfloat16"),
        name(settings=of(seed=1, prompts=str(prompts))),
        name(settings=of(prompts=str(prompts), temperature=0.5)),
        name(settings=of(prompts=str(prompts), greedy=0.5)),
        name(settings=of()),
        name(settings=given.model_copy(update={"control_tokens": True})),
    ]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"0")
    for base in bases:
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
        base.rename(tmp_path / "base")
        others.append(name(adapter))
        (tmp_path / "base").rename(base)
    prompts.write_text("Another one.")
    others.append(name())
    assert len({first, *others}) == 11
    prompts.rename(prompts.with_name("moved.txt"))
    assert name(settings=of(prompts=str(prompts.with_name("moved.txt")))) == others[-1]


# -- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"source": "self", "self_data": {"documents": 0}}, "documents is 0"),
        ({"source": "self", "self_data": {"documents": True}}, "documents is True"),
        ({"source": "self", "self_data": {"temperature": 0}}, "all documents would be the same"),
        ({"source": "self", "self_data": {"greedy": 0.5}}, "all greedy documents would be the same"),
        ({"source": "self", "self_data": {"prompt": "x"}}, "'self_data.prompt' is not known"),
        ({"source": "self", "limit": 3}, "self_data.documents"),
        ({"source": "corpus", "self_data": {"documents": 3}}, "but source is 'corpus'"),
    ],
)
def test_wrong_settings_raise_one_sentence(fields, sentence):
    with pytest.raises(RecipeError, match=sentence):
        DataSettings.of(**fields)


# -- reading and training ---------------------------------------------------------------------------------


def test_every_document_is_in_exactly_one_part(golden_model, prompts, tmp_path):
    settings = of(prompts=str(prompts))
    file = write(golden_model, settings, tmp_path)
    train, held_out = open_self(settings, file)
    assert (len(train), len(held_out)) == (COUNT - 3, 3)
    asked = [{part[i].ids[: part[i].turns[0][0]] for i in range(len(part))} for part in (train, held_out)]
    assert not asked[0] & asked[1]
    parts = [
        [(list(d.ids), [list(turn) for turn in d.turns]) for d in map(s.__getitem__, range(len(s)))]
        for s in (train, held_out)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(documents(file))
    packed, _ = Packer(train, 64, 0, 8).batch(Cursor(), 2)
    assert packed.scored.any()
    with pytest.raises(IndexError):
        train[len(train)]


def test_an_incomplete_file_is_not_opened(golden_model, tmp_path):
    file = write(golden_model, of(), tmp_path)
    train, _ = open_self(of(), file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="complete documents, not 10"):
        open_self(of(), file)
    with pytest.raises(DataError, match="was changed"):
        train[len(train) - 1]


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("given", [True, False])
def test_a_run_on_documents_that_its_base_writes(prompts, tmp_path, monkeypatch, lora, given):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    base = small_base(tmp_path / "base")
    self_data = {"documents": 12, "max_new_tokens": TOKENS, "prompts": str(prompts) if given else None}
    fields = small_recipe(base, prompts, optimisation={"max_steps": 2}, lora=lora).model_dump()
    # A random network writes no answer by itself, but it continues a plain text.
    fields["data"] = {"source": "self", "held_out": 4, "self_data": self_data, "raw": not given}
    recipe = Recipe.model_validate(fields)
    final = start(recipe, tmp_path / "run", resume=False)
    assert nb.load(final).spec.mask_token_id == MASK
    assert len(losses(tmp_path / "run")) == 2
    (file,) = (tmp_path / "home" / "self-data").glob("*/documents.jsonl")
    # The documents are samples of the unchanged base, not of the network that is trained.
    author = Author.of(nb.load(base, dtype="float32"), recipe.data)
    assert documents(file)[0][0] == list(author.documents(range(1), lambda event: None)[0].ids)
    monkeypatch.setattr(self_author, "decode", None)
    _, source, *_ = open_without_weights(recipe)  # a preview finds the file under the same key
    assert [source[index] for index in range(len(source))] == [
        open_self(recipe.data, file)[0][index] for index in range(len(source))
    ]
    start(recipe, tmp_path / "again", resume=False)
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
