"""`python -m nbdiff_engine eval`: a table or one JSON object, and one sentence with exit code 2 for bad input."""

import itertools
import json
import sys

import pytest

import nbdiff_engine as nb
from nbdiff_engine.__main__ import main
from nbdiff_engine.evaluation import answering
from nbdiff_engine.evaluation import eval_command as command
from nbdiff_engine.evaluation import run as running
from nbdiff_engine.evaluation.answering import decode_batch
from nbdiff_engine.evaluation.settings_grid import label_of
from nbdiff_engine.tasks import DOMAINS
from nbdiff_engine.tasks.held_out import HELD_OUT_FILE
from tests.conftest import GOLDEN

MODEL = str(GOLDEN / "tiny-block-diffusion")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `eval` in this process; exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nbdiff_engine", "eval", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


def test_eval_prints_one_json_object_and_writes_it(run, tmp_path):
    path = tmp_path / "eval.json"
    code, out, err = run("--model", MODEL, "--limit", "1", "--max-new-tokens", "24", "--json", "--output", str(path))
    assert code == 0
    assert out.count("\n") == 1
    answer = json.loads(out)
    assert json.loads(path.read_text()) == answer
    assert "answers" in err  # the progress bar
    assert answer["problems"] == dict.fromkeys(DOMAINS, 1)
    assert answer["max_new_tokens"] == 24
    assert list(answer)[:5] == ["machine", "problems", "max_new_tokens", "models", "comparisons"]
    assert list(answer)[5:] == ["curves", "batch_size", "problems_digest", "definitions"]
    assert set(answer["machine"]) >= {"cpu", "cores", "torch", "date"}
    (report,) = answer["models"]
    assert (report["name"], report["dtype"], report["code_run"]) == (MODEL, "float32", False)
    assert report["threads"] >= 1
    assert [each["setting"] for each in report["results"]] == [label_of(each) for each in running.DEFAULT_SETTINGS]
    assert {each["overall"]["n"] for each in report["results"]} == {4}
    assert report["results"][0]["domains"]["code"]["accuracy"] is None
    assert len(answer["comparisons"]) == 2


def test_eval_prints_a_table(run):
    code, out, _ = run(
        *("--model", MODEL, "--domain", "knowledge", "--domain", "math", "--limit", "2", "--max-new-tokens", "12"),
        *("--setting", "self_speculative,block_size=8", "--dtype", "float32", "--no-run-code"),
    )
    assert code == 0
    assert out.startswith("4 prompts (2 math, 2 knowledge), one at a time, answers of at most 12 tokens\n")
    assert f"\n{MODEL}: 0.9M parameters, float32, cpu" in out
    assert "self_speculative,block_size=8 against ar\n" in out
    assert "4 of 4 token for token the same" in out


def test_the_bundled_pair_is_the_default_and_the_ar_parent_comes_first(run, monkeypatch):
    names = []

    def load(name, dtype):
        names.append((name, dtype))
        if len(names) == 2:
            raise nb.CheckpointError("Enough.")

    monkeypatch.setattr(command, "load", load)
    monkeypatch.setattr(command, "bundled_models", lambda: dict.fromkeys(("nano", "nano-ar", "other"), GOLDEN))
    assert run("--limit", "1") == (2, "", "error: Enough.\n")
    assert names == [("nano-ar", "auto"), ("nano", "auto")]
    monkeypatch.setattr(command, "bundled_models", dict)
    assert run()[2] == "error: No bundled model is here; name one with --model.\n"


def test_a_block_above_the_trained_size_gives_one_warning(run):
    options = ("--limit", "2", "--max-new-tokens", "4", "--setting", "block_diffusion,block_size=48")
    code, _, err = run("--model", MODEL, *options)
    assert code == 0
    assert err.count("warning: block size 48 is larger than the 32") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nosuch"], "not a bundled name"),
        (["--domain", "sport"], "domain is 'sport'; choose one of math, code, knowledge, story."),
        (["--limit", "0"], "limit is 0; it must be at least 1."),
        (["--limit", "some"], "Invalid value for '--limit'"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--dtype", "int3"], "dtype is 'int3'"),
        (["--output", "/nosuch/folder/eval.json"], "does not exist"),
        (["--output", "/"], "is a folder"),
        (["--output", "a" * 300], "File name too long"),
        (["--output", ""], "that is a folder"),
        (["--resume"], "--resume needs --output"),
        (["--batch-size", "0"], "batch_size is 0; it must be from 1"),
        (["--problems", "/nosuch.jsonl"], "there is no such file"),
        (["--problems", str(HELD_OUT_FILE), "--domain", "sport"], "domain is 'sport'; choose one of math, code"),
        (["--problems", "my.jsonl", "--output", "my.jsonl"], "would be written over my.jsonl"),
        (["--problems", "my.answers.jsonl", "--output", "my.json"], "would be written over my.answers.jsonl"),
        (["--block-size", "4,x"], "block_size is 'x'"),
        (["--threshold", "0.5,2"], "threshold is 2"),
        (["--strategy", "ar,magic"], "strategy is 'magic'"),
        (["--setting", "magic"], "strategy is 'magic'"),
        (["--setting", ""], "it must begin with the strategy"),
        (["--setting", "block_size=8"], "it must begin with the strategy"),
        (["--setting", "block_diffusion,block_size"], "'block_size' is no name=value"),
        (["--setting", "block_diffusion,blocksize=8"], "'blocksize' is not known here"),
        (["--setting", "block_diffusion,block_size=abc"], "block_size is 'abc'"),
        (["--setting", "block_diffusion,threshold=1.5"], "threshold is 1.5"),
        (["--setting", "block_diffusion,seed=1,seed=2"], "it has seed twice"),
        (["--setting", "ar,trace=true"], "never records traces"),
        (["--setting", "ar", "--setting", "ar"], "is given twice"),
        (["--setting", "block_diffusion,block_size=4,sub_block_size=8"], "sub_block_size is 8"),
    ],
)
def test_bad_options_give_one_sentence_and_exit_code_2(run, arguments, sentence):
    code, out, err = run(*(["--model", MODEL] if "--model" not in arguments else []), *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_interrupted_run_prints_nothing(run, monkeypatch):
    calls = itertools.count()

    def interrupted(model, prompts, settings):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return (yield from decode_batch(model, prompts, settings))

    monkeypatch.setattr(answering, "decode_batch", interrupted)
    code, out, _ = run("--model", MODEL, "--limit", "1", "--max-new-tokens", "4")
    assert (code, out) == (130, "")


def test_an_interrupted_run_with_an_output_says_how_to_resume(run, monkeypatch, tmp_path):
    calls = itertools.count()
    options = ("--model", MODEL, "--limit", "1", "--max-new-tokens", "4", "--output", str(tmp_path / "run.json"))
    journal = tmp_path / "run.answers.jsonl"

    def interrupted(model, prompts, settings):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return (yield from decode_batch(model, prompts, settings))

    with monkeypatch.context() as patch:
        patch.setattr(answering, "decode_batch", interrupted)
        code, out, err = run(*options)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == f"stopped: {journal} keeps the answers; the same command with --resume continues"
    code, _, err = run(*options)
    assert code == 2
    assert err.startswith(f"error: {journal} holds the answers of an earlier run; --resume continues it")
    code, out, _ = run(*options, "--resume", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run.json").read_text())


def test_problems_of_a_file_are_judged_by_their_checks(run, tmp_path):
    path = tmp_path / "my.jsonl"
    lines = [
        {"prompt": "What is the capital of Peru?", "answer": "Lima", "domain": "places"},
        {"prompt": [{"role": "user", "content": "What is the capital of Peru?"}], "answer": "Rome", "domain": "places"},
        {"prompt": "What is 3 plus 4?", "answer": 7, "domain": "sums"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("--model", "nano", "--problems", str(path), "--strategy", "ar", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["problems"] == {"places": 2, "sums": 1}
    domains = answer["models"][0]["results"][0]["domains"]
    assert domains["places"]["accuracy"] == 0.5
    assert domains["sums"]["judged"] == 1
    low, high = domains["places"]["accuracy_interval"]
    assert 0 < low < 0.5 < high < 1


def test_a_large_grid_gives_a_warning_and_runs(run, monkeypatch):
    monkeypatch.setattr(command, "MANY_ANSWERS", 3)
    options = ("--model", MODEL, "--limit", "1", "--domain", "math", "--max-new-tokens", "4", "--block-size", "4")
    code, out, err = run(*options, "--threshold", "0.5,0.9")
    assert code == 0
    assert "warning: 4 settings x 1 problems are 4 answers, which may take long" in err
    assert "AUP: the area under accuracy" in out
    assert "block_diffusion, block 4 " in out
