"""A killed evaluation resumes where it stopped. The journal of another run is refused."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.evaluation import answering
from nbdiff_engine.evaluation import journal as journals
from nbdiff_engine.evaluation import run as running
from nbdiff_engine.evaluation.answering import decode_batch
from nbdiff_engine.evaluation.machine_facts import machine_facts
from nbdiff_engine.evaluation.run import evaluate
from nbdiff_engine.tasks import held_out
from tests import forked
from tests.conftest import GOLDEN

MODEL = str(GOLDEN / "tiny-block-diffusion")
PROBLEMS = held_out("knowledge", 3) + held_out("math", 2)
TIMES = ("seconds", "tokens_per_second", "seconds_ratio", "tokens_per_second_ratio", "machine")


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load(MODEL, dtype="float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.answers.jsonl"


def run(model, path=None, resume=False, problems=PROBLEMS, **other):
    return evaluate([model], problems, max_new_tokens=12, journal=path, resume=resume, **other)


def without_times(value):
    """A report without times, rates and machine facts."""
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def calls_of(monkeypatch, stop_at: int | None = None) -> list:
    """Records the strategy of every call of decode_batch; call number `stop_at` (from 0) raises KeyboardInterrupt."""
    calls = []

    def counted(model, prompts, settings):
        calls.append(settings.strategy)
        if len(calls) - 1 == stop_at:
            raise KeyboardInterrupt
        return (yield from decode_batch(model, prompts, settings))

    monkeypatch.setattr(answering, "decode_batch", counted)
    return calls


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_interrupted_run_resumes_and_gives_the_same_report(model, path, monkeypatch, batch_size):
    uninterrupted = json.loads(json.dumps(run(model, batch_size=batch_size).to_json()))
    calls_of(monkeypatch, stop_at=8)  # three warm-ups, then five answers
    with pytest.raises(KeyboardInterrupt):
        run(model, path, batch_size=batch_size)
    kept = path.read_text().splitlines()
    assert len(kept) == 1 + 1 + 5  # the header, the threads, the answers
    calls = calls_of(monkeypatch)
    again = json.loads(json.dumps(run(model, path, resume=True, batch_size=batch_size).to_json()))
    assert path.read_text().splitlines()[: len(kept)] == kept
    assert len(calls) == 3 + 3 * len(running.batches_of(PROBLEMS, [[1]] * len(PROBLEMS), batch_size)) - 5
    assert without_times(again) == without_times(uninterrupted)


def test_a_finished_run_that_is_resumed_decodes_nothing_and_gives_the_same_report(model, path, monkeypatch):
    first = run(model, path).to_json()
    calls = calls_of(monkeypatch)
    monkeypatch.setattr(running, "choose_threads", lambda _: pytest.fail("the threads were measured again"))
    assert run(model, path, resume=True).to_json() == first
    assert calls == []


@pytest.mark.parametrize(
    "tail", [b'{"model": "x", "sett', b'{"text": "' + b"x" * 9999, b"\x00\x00\x00", b"\x00\x00\n"], ids=range(4)
)
def test_a_last_line_that_a_crash_has_damaged_is_decoded_again(model, path, monkeypatch, tail):
    first = run(model, path).to_json()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + tail)
    calls = calls_of(monkeypatch)
    again = json.loads(json.dumps(run(model, path, resume=True).to_json()))
    assert len(calls) == 2  # a warm-up, and the answer
    assert without_times(again) == without_times(json.loads(json.dumps(first)))
    assert [json.loads(line) for line in path.read_bytes().splitlines()][-1]["answers"]


def test_a_journal_without_a_complete_line_starts_a_new_run(model, path):
    path.write_bytes(b'{"format": "nbd')
    run(model, path, resume=True)
    assert json.loads(path.read_bytes().splitlines()[0])["format"] == journals.FORMAT


def test_a_line_contains_the_answer(model, path):
    done = run(model, path, settings=[DecodeSettings.of(strategy="ar")])
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[2:]]
    assert [line["answers"][0]["problem"] for line in lines] == list(range(len(PROBLEMS)))
    texts = [nb.generate(model, each.prompt, strategy="ar", max_new_tokens=12, trace=False).text for each in PROBLEMS]
    assert [line["answers"][0]["text"] for line in lines] == texts
    forwards = sum(line["answers"][0]["metrics"]["decode_forwards"] for line in lines)
    tokens = sum(len(line["answers"][0]["token_ids"]) - 1 for line in lines)
    assert done.models[0].results[0].overall.tokens_per_forward == tokens / forwards


def test_a_journal_is_never_overwritten(model, path):
    run(model, path, problems=PROBLEMS[:1])
    before = path.read_bytes()
    with pytest.raises(nb.NBDiffError, match="holds the answers of an earlier run; --resume continues it"):
        run(model, path, problems=PROBLEMS[:1])
    assert path.read_bytes() == before


def test_the_journal_of_another_run_is_refused_and_the_difference_named(model, path, monkeypatch):
    run(model, path, problems=PROBLEMS[:2])
    before = path.read_bytes()

    def refused(sentence, problems=PROBLEMS[:2], models=(model,), limit=12, **other):
        with pytest.raises(nb.NBDiffError, match=sentence):
            evaluate(models, problems, max_new_tokens=limit, journal=path, resume=True, **other)

    refused("set of problems", PROBLEMS[1:3])
    refused("batch size \\(1, now 2\\)", batch_size=2)
    refused("set of settings", limit=13)
    refused("set of settings", settings=[DecodeSettings.of(strategy="ar")])
    refused("dtype \\('float32', now 'bfloat16'\\)", models=[nb.load(MODEL, dtype="bfloat16")])
    refused("set of models", models=[nb.BlockModel(model.network, model.tokenizer, model.spec, "other")])
    retrained = nb.load(MODEL, dtype="float32")
    next(retrained.network.parameters()).data.mul_(1.01)
    refused("set of weights", models=[retrained])
    with monkeypatch.context() as patch:
        patch.setattr(running, "engine_digest", lambda: "newer")
        refused("engine version")
    with monkeypatch.context() as patch:
        another = dataclasses.replace(machine_facts(), cpu="another", date="2030-01-01")
        patch.setattr(running, "machine_facts", lambda: another)
        refused("machine")
    assert path.read_bytes() == before


def test_a_resumed_run_keeps_its_first_date(model, path, monkeypatch):
    first = run(model, path, problems=PROBLEMS[:1])
    monkeypatch.setattr(running, "machine_facts", lambda: dataclasses.replace(first.machine, date="2030-01-01"))
    assert run(model, path, resume=True, problems=PROBLEMS[:1]).machine.date == first.machine.date


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}\n", "is no journal of an evaluation"),
        ("no JSON\n{}\n", "is damaged in line 1"),
        ('{"format": "nbdiff-answers", "version": 99, "fingerprint": {}}\n', "is a journal of version 99"),
    ],
)
def test_a_file_that_is_not_a_journal_is_refused(model, path, text, sentence):
    path.write_text(text)
    with pytest.raises(nb.NBDiffError, match=sentence):
        run(model, path, resume=True)
    assert path.read_text() == text


def test_a_damaged_line_in_the_middle_is_named(model, path):
    run(model, path, problems=PROBLEMS[:2])
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (b"nothing\n", b'{"model": "x"}\n'):
        path.write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        with pytest.raises(nb.NBDiffError, match="is damaged in line 4"):
            run(model, path, resume=True, problems=PROBLEMS[:2])


def test_two_runs_never_write_to_one_journal(model, path):
    header = {"format": journals.FORMAT}
    first = journals.Journal.open(path, header, machine_facts(), resume=False)
    with pytest.raises(nb.NBDiffError, match="is being written by another run"):
        journals.Journal.open(path, header, machine_facts(), resume=True)
    first.close()
    journals.Journal.open(path, header, machine_facts(), resume=True).close()


def test_a_full_disk_gives_one_sentence_and_keeps_the_journal(model, path, monkeypatch):
    counted = itertools.count()

    def full(handle):
        if next(counted) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals.os, "fsync", full)
    with pytest.raises(
        nb.NBDiffError, match="No space left on device; the answers written so far are kept, and --resume"
    ):
        run(model, path)
    monkeypatch.undo()
    run(model, path, resume=True)


# The command waits after 16 written lines while a file exists, so that it cannot finish before the signal.
WAITING_COMMAND = """
import os, sys, time
from nbdiff_engine.__main__ import main
hold, fsync, written = sys.argv.pop(1), os.fsync, []
def waiting_fsync(handle):
    fsync(handle)
    written.append(handle)
    while len(written) >= 16 and os.path.exists(hold):
        time.sleep(0.01)
os.fsync = waiting_fsync
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_command_resumes_after_it_was_killed(tmp_path, end):
    output = tmp_path / "run.json"
    arguments = ["eval", "--model", MODEL, "--domain", "story", "--limit", "16"]
    arguments += ["--max-new-tokens", "24", "--dtype", "float32", "--output", str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    hold = tmp_path / "hold"
    hold.touch()
    command = [sys.executable, "-c", WAITING_COMMAND, str(hold), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell may start background jobs with SIGINT ignored, and children inherit that. Restore the default.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = tmp_path / "run.answers.jsonl"
    until = time.monotonic() + 240
    while not journal.exists() or journal.read_bytes().count(b"\n") < 6:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(end)
    try:
        stderr = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert not output.exists()
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert f"stopped: {journal} keeps the answers; the same command with --resume continues" in stderr
        assert "Traceback" not in stderr
    again = forked.run_module("nbdiff_engine", *arguments, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads(output.read_text())["problems"] == {"story": 16}
    assert len(journal.read_bytes().splitlines()) == 2 + 3 * 16
