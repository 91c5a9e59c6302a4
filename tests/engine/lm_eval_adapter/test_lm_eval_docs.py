"""The installed harness and the adapter accept every lm-eval command in docs/harness.md."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from lm_eval._cli import HarnessCLI
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.lm_eval_adapter.arguments import ModelArguments, sampling_of

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "harness.md").read_text(encoding="utf-8")
BENCHMARKS = ("gsm8k", "minerva_math", "humaneval_instruct", "mbpp_instruct", "mmlu", "mmlu_pro", "ifeval", "bbh")
PROGRAM = ["python", "-m", "nbdiff_engine", "lm-eval"]


def commands():
    """The words of each lm-eval command in a code block, as (words before `run`, words from `run` on)."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if "lm-eval" in words:
                at = words.index("run")
                found.append((words[:at], words[at:]))
    return found


def parsed(words):
    return HarnessCLI()._parser.parse_args(words)


def test_there_is_a_command_for_every_benchmark():
    tasks = [task for _, words in commands() for task in parsed(words).tasks]
    assert [task for task in tasks if not task.startswith("nbdiff_")] == list(BENCHMARKS)


@pytest.mark.parametrize(("before", "words"), commands(), ids=lambda words: " ".join(words)[:60])
def test_a_command_parses_and_the_model_accepts_its_arguments(before, words):
    options = parsed(words)
    assert before[-4:] == PROGRAM
    assert options.model == "nbdiff"
    arguments = ModelArguments.of(**{"batch_size": options.batch_size, **options.model_args})
    assert arguments.batch_size == int(options.batch_size)
    sampling = sampling_of(
        {
            name: value
            for name, value in normalize_gen_kwargs(dict(options.gen_kwargs or {})).items()
            if name not in ("until", "max_gen_toks")
        }
    )
    DecodeSettings.of(**arguments.decode_settings(**sampling))
    if options.tasks[0] in ("humaneval_instruct", "mbpp_instruct"):
        assert options.confirm_run_unsafe_code
        assert before[0] == "HF_ALLOW_CODE_EVAL=1"
        assert sampling == {"temperature": 1.0, "top_p": 0.9}
    else:
        assert sampling == {"temperature": 0.0}


@pytest.mark.slow  # lm_eval reads its thousands of task files
def test_every_task_is_one_of_the_installed_harness_with_the_documented_number_of_examples():
    manager = TaskManager(include_path=str(ROOT / "tests" / "engine" / "lm_eval_adapter" / "harness_tasks"))
    for _, words in commands():
        options = parsed(words)
        for task in options.tasks:
            assert task in manager.all_tasks
            own = (manager.task_index[task].cfg or {}).get("num_fewshot")
            if own is not None and options.num_fewshot is not None:
                assert options.num_fewshot == own
    for task in re.findall(r"`((?:hendrycks_math|humaneval|mbpp)[a-z_]*)`", TEXT):
        assert task in manager.all_tasks


def test_every_argument_is_documented():
    table = TEXT.split("## Arguments of the model")[1].split("##")[0]
    for name in ModelArguments.model_fields:
        assert f"`{name}`" in table
