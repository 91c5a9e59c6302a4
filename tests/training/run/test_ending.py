"""end.json: the outcome of a run and its kind of failure. Its first process writes it, its next start removes it."""

import errno
import json
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from nbdiff_engine.errors import CheckpointError, SettingError
from tests.training.runs import small_base, small_data, small_recipe, written
from training.errors import DataError, RecipeError, RunError
from training.failure_kind import FailureKind
from training.run.end_file import END, Ending, Outcome, ending_written, read_ending
from training.run.ending import ending_of, kind_of
from training.run.interruption import Interrupted
from training.run.trainer import Trainer


@pytest.fixture
def small(tmp_path):
    """A recipe file of six steps, and an empty folder for its run, as a job creates it."""
    (tmp_path / "run").mkdir()
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))
    return written(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RunError("the loss is nan", FailureKind.NAN_LOSS), "nan_loss"),
        (RecipeError("a setting is out of its range"), "bad_setting"),
        (SettingError("a setting is out of its range"), "bad_setting"),
        (CheckpointError("a damaged checkpoint"), "other"),
        (RunError("the disk is full, it says"), "other"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EFBIG, "File too large"), "disk_full"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.EACCES, "Permission denied"), "other"),
        (FileNotFoundError("raised by a library, without a number"), "missing_file"),
        (caused(RunError("cannot be written"), OSError(errno.ENOSPC, "No space left on device")), "disk_full"),
        (caused(DataError("cannot be read"), FileNotFoundError(errno.ENOENT, "No such file")), "missing_file"),
        (caused(DataError("cannot be read"), caused(ValueError(), MemoryError())), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:50],
)
def test_a_failure_has_a_kind(error, kind):
    assert kind_of(error) == kind


def test_an_error_of_the_cpu_allocator_is_out_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert kind_of(error.value) == "out_of_memory"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--data", "/nosuch/data.jsonl"], "missing_file"),
        (["--base", "nosuch"], "missing_file"),
        (["--set", "optimisation.speed=1"], "bad_setting"),
        (["--set", "attention=flex"], "bad_setting"),
    ],
    ids=str,
)
def test_a_run_that_cannot_start_writes_the_reason_to_its_folder(run, small, arguments, kind):
    recipe, output = small
    code, _, errors = run("adapt", "--recipe", recipe, "--output", output, *arguments)
    ending = read_ending(output)
    assert (code, ending.outcome, ending.kind) == (2, "failed", kind)
    assert f"error: {ending.message}" in errors
    assert [path.name for path in output.iterdir()] == [END]
    # A folder with only end.json counts as empty.
    assert run("adapt", "--recipe", recipe, "--output", output, "--max-steps", 1)[0] == 0
    assert read_ending(output) == Ending(Outcome.FINISHED)


def test_a_bad_row_and_a_missing_prompt_file_have_different_kinds(run, small, tmp_path):
    recipe, output = small
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 3, "completion": "b"\n')
    run("adapt", "--recipe", recipe, "--output", output, "--data", tmp_path / "bad.jsonl")
    assert read_ending(output).kind == "bad_row"
    prompts = f"data.self_data.prompts={tmp_path / 'nosuch.jsonl'}"
    run("adapt", "--recipe", recipe, "--output", output, "--data", "self", "--set", "data.held_out=1", "--set", prompts)
    assert read_ending(output).kind == "missing_file"


def test_an_infinite_gradient_is_recorded_as_nan_loss(run, small, monkeypatch):
    recipe, output = small
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda self, parameters, norm: torch.tensor(torch.inf))
    run("adapt", "--recipe", recipe, "--output", output)
    assert read_ending(output).kind == "nan_loss"


def test_a_stop_is_recorded_with_its_step(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(Interrupted), ending_written(run, resume=False, ending_of=ending_of):
        raise Interrupted(7, 143)
    ending = read_ending(run)
    assert (ending.outcome, ending.step, ending.kind) == ("stopped", 7, None)


def test_a_full_disk_during_a_run_is_recorded(run, small, monkeypatch):
    recipe, output = small

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.run.saving.write_tensors", full)
    run("adapt", "--recipe", recipe, "--output", output)
    ending = read_ending(output)
    assert (ending.outcome, ending.kind) == ("failed", "disk_full")


def test_an_unexpected_exception_is_recorded_as_a_crash(run, small, monkeypatch):
    recipe, output = small
    monkeypatch.setattr(Trainer, "run", lambda self: {}["optimizer"])
    with pytest.raises(KeyError):
        run("adapt", "--recipe", recipe, "--output", output)
    assert read_ending(output) == Ending(Outcome.CRASHED, FailureKind.OTHER, message="KeyError: 'optimizer'")


def test_no_folder_is_created_and_no_other_folder_is_written_to(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    for run in (tmp_path / "not there", tmp_path / "photos"):
        with pytest.raises(RunError), ending_written(run, resume=False, ending_of=ending_of):
            raise RunError("no")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.jpg", "photos"]


def test_the_first_process_of_a_run_writes_its_end(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    for rank, exists in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(RunError), ending_written(run, resume=False, ending_of=ending_of):
            raise RunError("no")
        assert (run / END).exists() == exists


def test_a_resumed_run_removes_the_end_file_of_the_earlier_start(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    (tmp_path / END).write_text(stored())
    with ending_written(tmp_path, resume=True, ending_of=ending_of):
        assert read_ending(tmp_path) is None
    assert read_ending(tmp_path).outcome == "finished"


def stored(**fields) -> str:
    return json.dumps({"outcome": "failed", "kind": "bad_row", "step": None, "message": "", **fields})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"outcome": "failed"}', *[stored(**{key: 1.5}) for key in ("outcome", "kind", "step", "message")]],
)
def test_a_damaged_end_file_is_read_as_none(tmp_path, text):
    (tmp_path / END).write_text(stored())
    assert read_ending(tmp_path).kind == "bad_row"
    (tmp_path / END).write_text(text)
    assert read_ending(tmp_path) is None


def test_a_runner_does_not_import_torch():
    heavy = "{'torch', 'transformers', 'nbdiff_engine', 'pydantic'}"
    program = f"import sys, training.jobs.runner; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
