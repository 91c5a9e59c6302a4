"""Probes of a run's checkpoints."""

import json
from pathlib import Path

import pytest

import nbdiff_engine as nb
from tests.training.runs import WORDS, losses, small_base, small_data, small_recipe
from training.recipe.recipe import Recipe
from training.run.launch import start
from training.run.probing import shown_texts
from training.run.run_folder import read_lines

SAVING = {"save_every": 3, "eval_every": 0, "keep": 5}


def recipe(folder: Path, **sections: object) -> Recipe:
    base, data = folder / "base", folder / "data.jsonl"
    if not base.exists():
        small_base(base)
        small_data(data)
    return small_recipe(base, data, saving={**SAVING, **sections.pop("saving", {})}, **sections)


def test_every_checkpoint_is_probed_and_probes_change_no_loss(tmp_path: Path) -> None:
    start(recipe(tmp_path), tmp_path / "probed", resume=False)
    start(recipe(tmp_path, saving={"probes": False}), tmp_path / "plain", resume=False)
    lines = read_lines(tmp_path / "probed" / "probes.jsonl")
    assert [line["step"] for line in lines] == [3, 6]
    for line in lines:
        assert line["accuracy"] is None  # the answers of the user's documents are not checked
        assert line["tpf"] > 0
        for probe in line["probes"]:
            assert len(probe["tokens"]) >= 1
            assert set(probe["prompt"].split()) <= set(WORDS)
            assert set(probe["reference"].split()) <= set(WORDS)
            assert nb.Trace.from_json(probe["trace"]).events
    assert not (tmp_path / "plain" / "probes.jsonl").exists()
    assert losses(tmp_path / "probed") == losses(tmp_path / "plain")


def test_a_failing_probe_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.run.probing.prepare", lambda *args, **kwargs: 1 / 0)
    assert (start(recipe(tmp_path), tmp_path / "run", resume=False) / "config.json").exists()
    assert read_lines(tmp_path / "run" / "probes.jsonl") == []


def test_a_run_of_the_corpus_is_probed_with_problems_whose_answers_are_known(tmp_path: Path) -> None:
    corpus = {"source": "corpus", "held_out": 4}
    chosen = recipe(tmp_path, data=corpus, optimisation={"max_steps": 1, "packed_length": 128})
    start(chosen, tmp_path / "run", resume=False)
    (line,) = read_lines(tmp_path / "run" / "probes.jsonl")
    assert 0 <= line["accuracy"] <= 1
    assert line["problems"] == 8
    assert "reference" not in line["probes"][0]


def test_plain_text_is_probed_with_its_beginning(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    text = "red cat sees old dog near small house"
    (tmp_path / "text.jsonl").write_text(f'{{"text": "{text}"}}\n' * 6)
    chosen = small_recipe(base, tmp_path / "text.jsonl", data={"held_out": 2}, saving=SAVING)
    start(chosen, tmp_path / "run", resume=False)
    probe = read_lines(tmp_path / "run" / "probes.jsonl")[0]["probes"][0]
    assert probe["prompt"]
    assert f"{probe['prompt']} {probe['reference'].strip()}".split() == text.split()


def test_a_prompt_with_several_answers_is_one_probe(tmp_path: Path) -> None:
    data = small_data(tmp_path / "data.jsonl")
    rows = [{**json.loads(line), "prompt": "red cat"} for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = small_recipe(small_base(tmp_path / "base"), data, data={"held_out": 4}, saving=SAVING)
    start(chosen, tmp_path / "run", resume=False)
    line = read_lines(tmp_path / "run" / "probes.jsonl")[0]
    assert [probe["prompt"] for probe in line["probes"]] == ["red cat"]
    assert line["problems"] == 1


def test_a_character_of_several_tokens_is_shown_whole_and_its_parts_as_bytes() -> None:
    model = nb.load("nano")
    job = nb.prepare(model, "Hello")
    ids = [*model.tokenizer("秘", add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
    *parts, last, end = shown_texts(job, ids)
    assert (last, end) == ("秘", model.tokenizer.eos_token)
    assert "".join(each.strip("⟨⟩") for each in parts).replace(" ", "").lower() == "秘".encode().hex()[: 2 * len(parts)]
