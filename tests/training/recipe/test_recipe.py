"""Bundled recipes: every one is valid, resolves to itself, scales with --max-steps, and trains."""

import json
from pathlib import Path

import pytest

from tests.training.bases import ENTRIES, write_base
from tests.training.runs import WORDS, small_data
from training.errors import RecipeError
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes
from training.run.launch import start

NAMES = list(bundled_recipes())
PAPER = ["qwen3-4b-paper", "pangu-7b-paper", "pangu-7b-paper-2-long", "pangu-7b-paper-3-sft"]


def test_all_recipes_are_bundled():
    assert {"nano-ar", "nano", "smoke", "lora", "chat-sft", "qwen3-0.6b-lora", *PAPER} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_is_valid_and_described(name):
    recipe = Recipe.read(name)
    assert recipe.about.endswith(".")
    assert len(recipe.about) <= 120
    assert (
        recipe.blocks.over(recipe.optimisation.max_steps).at(recipe.optimisation.max_steps - 1) == recipe.blocks.b_max
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_resolved_recipe_reads_back_equal(name, tmp_path):
    recipe = Recipe.read(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.read(str(path)) == recipe


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1000, 7])
def test_all_phases_scale_with_max_steps(name, steps):
    original, short = Recipe.read(name), Recipe.read(name, optimisation__max_steps=steps)
    assert short.optimisation.max_steps == steps
    assert short.optimisation.model_copy(update={"max_steps": original.optimisation.max_steps}) == original.optimisation
    long_stages = original.blocks.over(original.optimisation.max_steps).stages
    short_stages = short.blocks.over(steps).stages
    assert [size for _, size in short_stages] == [size for _, size in long_stages]
    for (long, _), (first, _) in zip(long_stages, short_stages):
        assert first / steps == pytest.approx(long / original.optimisation.max_steps, abs=1 / steps)


def test_the_paper_recipe_grows_over_2500_of_4000_steps():
    recipe = Recipe.read("qwen3-4b-paper")
    assert recipe.blocks.over(4000).stages == ((0, 1), (500, 2), (1000, 4), (1500, 8), (2000, 16), (2500, 32))
    assert (recipe.optimisation.learning_rate, recipe.objective.ar_weight) == (1e-5, 0.5)


def test_set_overrides_single_settings():
    recipe = Recipe.read("smoke", ["optimisation.learning_rate=2e-3", "lora={rank: 4}", "data.source=x.jsonl"])
    assert recipe.optimisation.learning_rate == 2e-3
    assert recipe.lora.rank == 4
    assert recipe.data.source == "x.jsonl"
    assert recipe.optimisation.rows == Recipe.read("smoke").optimisation.rows


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "names no base checkpoint and no data; give --base and --data."),
        (["--base", "nano-ar"], "names no data; give --data."),
        (["--data", "x.jsonl"], "names no base checkpoint; give --base."),
    ],
)
@pytest.mark.parametrize("command", ["adapt", "preview", "jobs submit"])
def test_a_recipe_for_any_base_and_data_names_what_is_missing(run, tmp_path, monkeypatch, command, arguments, sentence):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    output = ["--output", str(tmp_path / "run")] if command == "adapt" else []
    code, out, err = run(*command.split(), "--recipe", "lora", *arguments, *output)
    assert (code, out, err.count("error: ")) == (2, "", 1)
    assert sentence in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("optimisation.nosuch=1", "'optimisation.nosuch' is not known here"),
        ("nosuch.key=1", "'nosuch' is not known here"),
        ("optimisation.rows=0", "optimisation.rows is 0"),
        ("optimisation.learning_rate=fast", "optimisation.learning_rate is 'fast'"),
        ("blocks.b_max=0", "blocks.b_max is 0"),
        ("precision=fp8", "precision is 'fp8'"),
        ("kind.inner=1", "'kind' has no settings inside"),
        ("optimisation.rows", "is not key=value"),
        ("optimisation.rows={", "the value is not YAML"),
        ("quantization=4bit", "add a lora section"),
    ],
)
def test_a_wrong_setting_gives_one_sentence_and_exit_code_2(run, tmp_path, setting, sentence):
    code, out, err = run("adapt", "--recipe", "nano", "--set", setting, "--output", str(tmp_path / "run"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert sentence in err
    assert not (tmp_path / "run").exists()


def test_the_recipes_command_lists_all_recipes(run):
    code, out, _ = run("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == sorted(NAMES)
    needs = {line.split()[0]: line.partition(" Give ")[2] for line in out.splitlines()}
    assert (needs["lora"], needs["draft-adapter"], needs["smoke"]) == ("--base and --data.", "--base.", "")
    listed = json.loads(run("recipes", "--json")[1])
    assert {each["name"]: each["missing"] for each in listed}["lora"] == ["base", "data"]
    assert {each["name"]: each["about"] for each in listed} == {name: Recipe.read(name).about for name in NAMES}


def test_the_corpus_command_prints_problems(run):
    code, out, _ = run("corpus", "--domain", "math", "--split", "test", "--n", "3")
    assert (code, out.count("math test")) == (0, 3)


@pytest.mark.parametrize(
    "arguments", [["--domain", "chess"], ["--split", "dev"], ["--n", "0"], ["--n", "x"], ["--nosuch"]]
)
def test_wrong_corpus_options_give_one_sentence(run, arguments):
    code, out, err = run("corpus", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")


@pytest.mark.parametrize("name", [*PAPER, "chat-sft"])
def test_missing_data_of_a_recipe_raises_one_sentence(name, tmp_path):
    base = write_base(tmp_path / "base")
    recipe = Recipe.read(name, ["threads=1", "precision=fp32"], base=str(base))
    with pytest.raises(RecipeError.__base__, match=r"There is no file data/[\w-]+\.jsonl\."):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def data_for(recipe: Recipe, folder: Path) -> Path | str:
    """Small data in the format of the recipe."""
    path = folder / "data.jsonl"
    if recipe.data.source == "corpus":
        return "corpus"
    if recipe.data.format == "text":
        path.write_text("".join(json.dumps({"text": " ".join(WORDS)}) + "\n" for _ in range(8)), encoding="utf-8")
    elif recipe.data.format == "messages":
        turn = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "green blue"}]
        path.write_text((json.dumps({"messages": turn * 2}) + "\n") * 8, encoding="utf-8")
    else:
        small_data(path, rows=8)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_trains_a_small_model_of_its_class(name, tmp_path):
    recipe = Recipe.read(name)
    overrides = ["optimisation.packed_length=64", "optimisation.rows=1", "optimisation.accumulation=1"]
    overrides += ["compile=false", "threads=1", "data.held_out=2"]
    given = {"optimisation__max_steps": 3, "data__source": str(data_for(recipe, tmp_path))}
    if recipe.kind == "pretrain":
        overrides += ["network.config.num_hidden_layers=1", "network.tokenizer={vocab_size: 400, documents: 40}"]
    else:
        family, shape = (
            ("qwen3", {"head_dim": 8}) if "qwen3" in name else ("llama", {"attention_bias": "pangu" in name})
        )
        given["base"] = str(write_base(tmp_path / "base", family, vocab_size=ENTRIES, **shape))
    final = start(Recipe.read(name, overrides, **given), tmp_path / "run", resume=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["block_size"] == (1 if recipe.kind == "pretrain" else recipe.blocks.b_max)
    assert (final / ("draft_adapter.json" if recipe.drafts else "model.safetensors")).is_file()
