"""The adapter in lm-evaluation-harness on local tasks, compared with our evaluation and the harness's `hf` model."""

import json
import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import nbdiff_engine as nb
from nbdiff_engine.lm_eval_adapter.lm_eval_command import register
from nbdiff_engine.lm_eval_adapter.lm_eval_model import NBDiffLM
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.tasks import check, held_out
from tests import forked
from tests.tiny import UNSHIFTED

ROOT = Path(__file__).parents[3]
TASKS = ROOT / "tests" / "engine" / "lm_eval_adapter" / "harness_tasks"
FLOAT32 = {"model": "nano", "dtype": "float32"}

register()


@pytest.fixture(autouse=True)
def _no_report_of_the_machine(monkeypatch):
    """Collecting machine facts for the results takes lm_eval seconds, and no test reads them."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(TASKS), include_defaults=False)


@pytest.fixture(scope="module")
def nano():
    return NBDiffLM(**FLOAT32, batch_size=4)


@pytest.fixture(scope="module")
def hf():
    return HFLM(pretrained=str(bundled_models()["nano"]), dtype="float32", device="cpu", batch_size=2)


def evaluated(manager, model_args, *tasks, **options):
    return lm_eval.simple_evaluate(
        model="nbdiff",
        model_args=model_args,
        tasks=list(tasks),
        task_manager=manager,
        apply_chat_template=True,
        bootstrap_iters=0,
        **options,
    )


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=each, idx=n) for n, each in enumerate(arguments)]


def texts_of(results, task):
    return [sample["resps"][0][0] for sample in results["samples"][task]]


PAIRS = (
    ("<user>What is the capital of Peru?<bot>", "The capital of Peru is Lima."),
    ("<user>What is the capital of Peru?<bot>", "The capital of Peru is Rome."),
    ("<user>Stockholm is the capital of which country?<bot>", "Stockholm is the capital of Sweden."),
    ("", "Once upon a time"),
    ("He gets 7, so 2 + 7 = ", "9"),
    ("A dog ", "and a cat."),
)


def test_log_likelihoods_and_greedy_flags_equal_those_of_the_harness_own_hf_model(nano, hf):
    ours = nano.loglikelihood(requests("loglikelihood", *PAIRS), disable_tqdm=True)
    theirs = hf.loglikelihood(requests("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [each[0] for each in ours] == pytest.approx([each[0] for each in theirs], abs=1e-4)
    assert [each[1] for each in ours] == [each[1] for each in theirs]
    assert {each[1] for each in ours} == {True, False}


def test_rolling_log_likelihoods_equal_those_of_the_harness_own_hf_model_also_in_windows(hf):
    texts = [(problem.answer,) for problem in held_out("story", 2)]
    whole = NBDiffLM(**FLOAT32)
    windowed, theirs = NBDiffLM(**FLOAT32, max_length=24), hf
    ours = whole.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert ours == pytest.approx(expected, abs=1e-3)
    theirs._max_length = 24
    try:
        cut = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    finally:
        theirs._max_length = None
    ours = windowed.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert ours == pytest.approx(cut, abs=1e-3)
    assert cut != pytest.approx(expected, abs=1e-2)


def test_answers_equal_those_of_the_harness_own_hf_model(nano, hf):
    prompts = [f"<user>{problem.prompt}<bot>" for problem in held_out("knowledge", 3) + held_out("math", 3)]
    calls = [(prompt, {"until": ["."], "max_gen_toks": 40, "do_sample": False}) for prompt in prompts]
    ar = NBDiffLM(**FLOAT32, strategy="ar", batch_size=2)
    ours = ar.generate_until(requests("generate_until", *calls), disable_tqdm=True)
    assert ours == hf.generate_until(requests("generate_until", *calls), disable_tqdm=True)
    assert len(set(ours)) == len(ours)
    assert not any("." in text for text in ours)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": "ar"},
        {"strategy": "block_diffusion", "block_size": 16, "threshold": 0.9},
        {"strategy": "self_speculative", "block_size": 16, "batch_size": 3},
    ],
    ids=lambda each: each["strategy"],
)
def test_the_accuracy_equals_that_of_our_own_evaluation(manager, arguments):
    results = evaluated(manager, {**FLOAT32, **arguments}, "nbdiff_maths")
    problems = held_out("math", 8)
    model = nb.load(name="nano", dtype="float32")
    settings = {name: value for name, value in arguments.items() if name != "batch_size"}
    outputs = [nb.generate(model, each.prompt, max_new_tokens=160, trace=False, **settings) for each in problems]
    assert texts_of(results, "nbdiff_maths") == [each.text for each in outputs]
    correct = [check(problem, each.text).correct for problem, each in zip(problems, outputs, strict=True)]
    assert results["results"]["nbdiff_maths"]["exact_match,number"] == sum(correct) / 8
    info = results["config"]
    assert info["generated_tokens"] == sum(len(each.token_ids) for each in outputs)
    assert info["decode_forwards"] == sum(each.metrics.decode_forwards for each in outputs)
    assert info["tokens_per_forward"] == pytest.approx(
        sum(len(each.token_ids) - 1 for each in outputs) / info["decode_forwards"]
    )


def test_tokens_per_second_leave_out_the_prefill(monkeypatch):
    """The batch size is 1, so the rate divides by the sum of the answers' decode seconds."""
    lm, seen = NBDiffLM(**FLOAT32, strategy="ar"), []

    def kept(*args, **settings):
        job = nb.prepare(*args, **settings)
        outputs = job.outputs()
        seen.extend(output.metrics for output in outputs)
        return SimpleNamespace(outputs=lambda: outputs)

    monkeypatch.setattr("nbdiff_engine.lm_eval_adapter.lm_eval_model.prepare", kept)
    prompts = [f"<user>{problem.prompt}<bot>" for problem in held_out("knowledge", 3)]
    lm.generate_until(requests("generate_until", *((each, {"max_gen_toks": 8}) for each in prompts)), disable_tqdm=True)
    assert len(seen) == 3
    made = sum(each.output_tokens - 1 for each in seen)
    rate = lm.get_model_info()["tokens_per_second"]
    assert rate == pytest.approx(made / sum(each.decode_seconds for each in seen))
    assert rate != pytest.approx(made / sum(each.prefill_seconds + each.decode_seconds for each in seen), rel=1e-3)


def test_self_speculation_gives_the_answers_of_ar(manager):
    ar, fast = (
        evaluated(manager, {**FLOAT32, "strategy": strategy, "batch_size": 4}, "nbdiff_maths")
        for strategy in ("ar", "self_speculative")
    )
    assert texts_of(ar, "nbdiff_maths") == texts_of(fast, "nbdiff_maths")
    assert ar["results"]["nbdiff_maths"] == fast["results"]["nbdiff_maths"]
    assert fast["config"]["tokens_per_forward"] > 2 > ar["config"]["tokens_per_forward"] == 1


def test_sampled_answers_follow_the_seed_and_a_repeated_prompt_gets_other_answers():
    calls = [("<user>Write a story about a dog.<bot>", {"do_sample": True, "temperature": 3.0, "max_gen_toks": 16})] * 3

    def answers(seed):
        lm = NBDiffLM(**FLOAT32, seed=seed, batch_size=2)
        return lm.generate_until(requests("generate_until", *calls), disable_tqdm=True)

    one, again, other = answers(1), answers(1), answers(2)
    assert one == again
    assert len(set(one)) == 3
    assert one != other


def test_multiple_choice_by_the_ar_head_and_by_the_bound(manager):
    for arguments in ({"likelihood": "ar"}, {"likelihood": "diffusion", "block_size": 4, "batch_size": 16}):
        results = evaluated(manager, {**FLOAT32, **arguments}, "nbdiff_facts")
        assert results["results"]["nbdiff_facts"]["acc,none"] == 1
        assert results["config"]["likelihood"] == arguments["likelihood"]


def test_perplexity_by_the_bound_in_blocks_of_one_equals_that_of_the_ar_head(manager):
    def bits(**arguments):
        return evaluated(manager, {**FLOAT32, **arguments}, "nbdiff_stories")["results"]["nbdiff_stories"]

    ar, one, eight = (
        each["bits_per_byte,none"]
        for each in (
            bits(likelihood="ar"),
            bits(likelihood="diffusion", block_size=1),
            bits(likelihood="diffusion", block_size=8, samples=8, batch_size=8),
        )
    )
    assert one == pytest.approx(ar, abs=1e-5)
    assert eight > ar


def test_a_text_is_greedy_under_the_bound_iff_block_diffusion_writes_it():
    lm = NBDiffLM(**FLOAT32, likelihood="diffusion", block_size=8, samples=2)
    prompt = "<user>What is the capital of Peru?<bot>"
    text = nb.generate(lm.model, prompt, raw=True, control_tokens=True, strategy="block_diffusion", block_size=8).text
    calls = requests("loglikelihood", (prompt, text), (prompt, text.replace("Lima", "Rome")))
    assert [greedy for _, greedy in lm.loglikelihood(calls, disable_tqdm=True)] == [True, False]


def test_a_second_run_reads_the_answers_from_the_harness_cache(manager, tmp_path):
    runs = [
        evaluated(manager, FLOAT32, "nbdiff_maths", "nbdiff_facts", "nbdiff_stories", use_cache=str(tmp_path / "cache"))
        for _ in range(2)
    ]
    assert runs[0]["results"] == runs[1]["results"]
    assert runs[0]["config"]["generated_answers"] == 8
    assert runs[1]["config"]["generated_answers"] == 0


def test_a_long_prompt_is_cut_from_the_left_with_a_warning(caplog, monkeypatch):
    lm = NBDiffLM(**FLOAT32, strategy="ar", max_length=40)
    question = "<user>What is the capital of Peru?<bot>"
    calls = [(text, {"max_gen_toks": 20}) for text in ("<user>Hello there.<bot>Hello.<eos>" * 9 + question, question)]
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    cut, whole = lm.generate_until(requests("generate_until", *calls), disable_tqdm=True)
    assert "Truncating context from side='left'" in caplog.text
    assert "Lima" in cut
    assert "Lima" in whole


def test_a_block_larger_than_trained_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    lm = NBDiffLM(**FLOAT32, block_size=48)
    lm.generate_until(requests("generate_until", *[("<user>Hello<bot>", {"max_gen_toks": 4})] * 2), disable_tqdm=True)
    assert caplog.text.count("block size 48 is larger than the 32 that nano was trained for") == 1


def test_model_args_as_a_string_and_the_harness_batch_size():
    model = get_model("nbdiff")
    lm = model.create_from_arg_string("pretrained=nano,dtype=float32,strategy=ar,seed=3", {"batch_size": 5})
    assert (lm.model.name, lm.batch_size, lm.arguments.strategy, lm.arguments.seed) == ("nano", 5, "ar", 3)
    assert model.create_from_arg_obj({"model": "nano-ar", "batch_size": 2}, {"batch_size": 1}).batch_size == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "nano", "blocksize": 8}, "'blocksize', which nbdiff does not know"),
        ({}, "names no checkpoint"),
        ({"model": "nano", "pretrained": "nano"}, "mean the same"),
        ({"model": "nano", "strategy": "fast"}, "choose one of ar, block_diffusion"),
        ({"model": "nano", "threshold": 2}, "threshold is 2"),
        ({"model": "nano", "likelihood": "best"}, "likelihood is 'best'"),
        ({"model": "nano", "samples": 0}, "samples is 0"),
        ({"model": "nano", "batch_size": "auto"}, "give a number"),
        ({"model": "nano", "max_batch_size": 8}, "give batch_size"),
        ({"model": "nano", "max_length": 5000}, "context of 1024"),
        ({"model": "nano-ar", "likelihood": "diffusion"}, "autoregressive checkpoint"),
        ({"model": "nano-ar", "strategy": "block_diffusion"}, "autoregressive checkpoint"),
        ({"model": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_a_bad_argument_gives_one_sentence(arguments, sentence):
    with pytest.raises(nb.NBDiffError, match=sentence) as caught:
        NBDiffLM(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gen_kwargs", "sentence"),
    [
        ({"num_beams": 4}, "'num_beams', which nbdiff does not know"),
        ({"do_sample": True}, "without a temperature"),
        ({"max_gen_toks": 1024}, "max_gen_toks is 1024"),
        ({"do_sample": True, "temperature": 1, "top_p": 2}, "top_p is 2"),
    ],
    ids=str,
)
def test_generation_arguments_that_decoding_does_not_honour_are_refused(nano, gen_kwargs, sentence):
    with pytest.raises(nb.SettingError, match=sentence):
        nano.generate_until(requests("generate_until", ("<user>Hello<bot>", gen_kwargs)), disable_tqdm=True)


def test_an_answer_that_the_task_starts_is_continued(nano):
    turns = [
        {"role": "user", "content": "What is the capital of Peru?"},
        {"role": "assistant", "content": "The capital of Peru is"},
    ]
    text = nano.apply_chat_template(turns, add_generation_prompt=False)
    assert text == "<user>What is the capital of Peru?<bot>The capital of Peru is"
    answer = nano.generate_until(requests("generate_until", (text, {"max_gen_toks": 20})), disable_tqdm=True)
    assert answer == [" Lima."]


def test_names_of_control_tokens_in_a_turn_are_text_and_those_of_a_text_are_tokens(nano):
    text = nano.apply_chat_template([{"role": "user", "content": "Is <eos> a word?"}])
    ids = nano.tok_encode(text)
    assert [token for token in ids if token < 4] == [2, 3]
    assert nano.tokenizer.decode(ids) == "<user>Is <eos> a word?<bot>"
    assert nano.tok_encode("a<eos>")[-1] == 0


def test_arguments_reach_the_chat_template(monkeypatch):
    nano = NBDiffLM(**FLOAT32)
    monkeypatch.setattr(nano.tokenizer, "chat_template", "{{ messages[0].content }}{{ ' no' if not thinking }}")
    nano.arguments = nano.arguments.model_copy(update={"template_arguments": {"thinking": False}})
    assert nano.apply_chat_template([{"role": "user", "content": "Hello"}]) == "Hello no"


def test_an_argument_that_the_template_does_not_read_is_refused():
    with pytest.raises(nb.PromptError, match="does not read 'enable_thinking'"):
        NBDiffLM(**FLOAT32, enable_thinking=False)


def test_an_unshifted_checkpoint_is_scored_by_the_bound_and_has_no_ar_head(tmp_path):
    folder = tmp_path / "unshifted"
    shutil.copytree(bundled_models()["nano"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["block_diffusion"] |= UNSHIFTED
    (folder / "config.json").write_text(json.dumps(config))
    lm = NBDiffLM(model=str(folder), dtype="float32", block_size=4)
    found = lm.loglikelihood(requests("loglikelihood", PAIRS[0]), disable_tqdm=True)[0]
    assert lm.likelihood == "diffusion"
    assert found[0] < 0
    assert found[1] is False
    for arguments in ({"likelihood": "ar"}, {"strategy": "ar"}):
        with pytest.raises(nb.SettingError, match="no AR pass"):
            NBDiffLM(model=str(folder), dtype="float32", **arguments)


def test_a_missing_chat_template_is_an_error(nano, monkeypatch):
    monkeypatch.setattr(nano.tokenizer, "chat_template", None)
    with pytest.raises(nb.SettingError, match="no chat template"):
        nano.apply_chat_template([{"role": "user", "content": "Hello"}])


@pytest.mark.slow  # lm_eval reads its thousands of task files
def test_the_command_line_runs_a_local_task_and_a_bad_argument_gives_one_sentence(tmp_path):
    command = ["nbdiff_engine", "lm-eval", "run", "--model", "nbdiff"]
    command += ["--include_path", str(TASKS)]
    command += ["--tasks", "nbdiff_maths", "--apply_chat_template", "--output_path", str(tmp_path / "out.json")]
    own = ["--model_args", "model=nano,strategy=self_speculative,block_size=16", "--batch_size", "4"]
    good = forked.run_module(*command, *own)
    assert good.returncode == 0, good.stderr
    assert "|nbdiff_maths|" in good.stdout
    assert "tokens per forward" in good.stderr
    written = json.loads(next(tmp_path.rglob("*.json")).read_text())
    assert written["config"]["generated_answers"] == 8
    assert math.isfinite(written["config"]["tokens_per_second"])
    wrong = forked.run_module(*command, "--model_args", "model=nano,blocksize=16")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: model_args has 'blocksize'")
    assert "Traceback" not in wrong.stderr
