"""`python -m training`: its output for scripts, and one sentence with exit code 2 for bad input."""

import subprocess
import sys

import pytest

from tests.training.runs import losses, small_base, small_data, small_recipe, written


@pytest.mark.parametrize("arguments", [["--help"], ["adapt", "--help"], ["jobs", "--help"]], ids=" ".join)
def test_help_imports_no_large_package(arguments):
    program = (
        "import sys; from training.__main__ import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert "training.__main__" in done.stderr.split()
    assert not {"torch", "transformers", "datasets", "peft", "accelerate", "numpy"} & set(done.stderr.split())


def error_lines(errors: str) -> str:
    """The error lines of standard error, without log lines."""
    return "\n".join(line for line in errors.splitlines() if line.startswith("error: "))


@pytest.fixture
def small(tmp_path):
    """A recipe file of six steps, and a folder for its run."""
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))
    return written(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"


def test_adapt_prints_the_path_of_the_finished_model(run, small):
    recipe, output = small
    code, out, errors = run("adapt", "--recipe", recipe, "--output", output, "--max-steps", 2)
    assert (code, error_lines(errors)) == (0, "")
    assert out == f"{output / 'final'}\n"
    assert len(losses(output)) == 2


def test_set_base_and_data_override_the_recipe(run, small, tmp_path):
    recipe, output = small
    more = small_data(tmp_path / "more.jsonl", seed=1)
    code, _, _ = run(
        *("adapt", "--recipe", recipe, "--output", output, "--data", more, "--max-steps", 1),
        *("--set", "optimisation.learning_rate=5e-3", "--set", "blocks.b_max=4"),
    )
    assert code == 0
    stored = (output / "recipe.yaml").read_text()
    for line in (f"source: {more}", "learning_rate: 0.005", "b_max: 4", "max_steps: 1"):
        assert line in stored


def test_resume_needs_only_the_folder(run, small):
    recipe, output = small
    assert run("adapt", "--recipe", recipe, "--output", output)[0] == 0
    before = losses(output)
    assert run("adapt", "--resume", "--output", output)[0] == 0
    assert losses(output) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["adapt"], "Give a --recipe"),
        (["adapt", "--recipe", "nosuch"], "no recipe 'nosuch'"),
        (["adapt", "--recipe", "nano-ar"], "is for pretrain"),
        (["pretrain", "--recipe", "nano"], "is for adapt"),
        (["adapt", "--resume"], "--resume needs --output"),
        (["adapt", "--recipe", "SMALL", "--data", "/nosuch/data.jsonl"], "/nosuch/data.jsonl"),
        (["adapt", "--recipe", "SMALL", "--base", "nosuch"], "No model 'nosuch'"),
        (["adapt", "--recipe", "SMALL", "--set", "optimisation.max_steps=0"], "max_steps"),
        (["adapt", "--recipe", "SMALL", "--set", "optimisation.speed=1"], "'optimisation.speed' is not known"),
        (["adapt", "--recipe", "SMALL", "--set", "nonsense"], "is not key=value"),
        (["adapt", "--recipe", "SMALL", "--set", "seed.inner=1"], "has no settings inside"),
        (["adapt", "--recipe", "SMALL", "--set", "data.columns={prompt: nosuch}"], "nosuch"),
        (["adapt", "--recipe", "SMALL", "--set", "quantization=4bit"], "add a lora section"),
        (["adapt", "--recipe", "SMALL", "--set", "saving.trackers=[paper]"], "names 'paper'; choose from"),
        (["adapt", "--recipe", "SMALL", "--set", "lora={init: best}"], "lora.init is 'best'; choose one of default"),
        (["adapt", "--recipe", "SMALL", "--set", "objective.mask_token=<eos>"], "uses otherwise"),
        (["adapt", "--recipe", "SMALL", "--set", "optimisation.epochs=2", "--max-steps", "3"], "give one of them"),
        (["adapt", "--recipe", "SMALL", "--max-steps", "many"], "Invalid value"),
        (["adapt", "--nosuch"], "No such option"),
        (["nosuch"], "No such command"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_gives_one_sentence_and_exit_code_2(run, small, arguments, sentence):
    recipe, output = small
    arguments = [str(recipe) if each == "SMALL" else each for each in arguments]
    if "adapt" in arguments and "--resume" not in arguments:
        arguments += ["--output", str(output)]
    code, out, errors = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in error_lines(errors)
    assert error_lines(errors).count("error: ") == 1
    assert not output.exists()


@pytest.mark.parametrize("text", ["", "\n\n", '{"prompt": "a", "completion": "b"\n', '{"prompt": "a"}\n'])
def test_bad_data_gives_one_sentence_and_exit_code_2(run, small, tmp_path, text):
    recipe, output = small
    (tmp_path / "bad.jsonl").write_text(text)
    code, out, errors = run("adapt", "--recipe", recipe, "--output", output, "--data", tmp_path / "bad.jsonl")
    assert (code, out, error_lines(errors).count("error: ")) == (2, "", 1)
    assert not output.exists()


def test_a_folder_of_another_run_is_refused_and_not_changed(run, small):
    recipe, output = small
    assert run("adapt", "--recipe", recipe, "--output", output, "--max-steps", 1)[0] == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, _, errors = run("adapt", "--recipe", recipe, "--output", output, "--max-steps", 1)
    assert code == 2
    assert "contains another run" in errors
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
