"""Lines of a run's logs: the names of their fields, and reading them back."""

import json

from training.run.log_lines import HeldOutEvaluation, HeldOutLosses, StepFigures

LINE = {
    "step": 3,
    "loss": 2.5,
    "loss_mdm": 2.0,
    "loss_ar": 1.0,
    "loss_kl": 0.5,
    "loss_tv": 0.25,
    "block_size": 4,
    "lr": 0.001,
    "ar_weight": 0.5,
    "masked_tokens": 17,
    "eos_share": 0.25,
    "gradient_norm": 0.75,
    "tokens_seen": 1024,
    "tokens_per_second": 512.5,
    "seconds": 2.0,
    "peak_memory": 4096,
    "process_memory": 8192,
    "gpu_memory": 6144,
    "gpu_use": 97,
}


def test_the_names_and_the_order_of_the_fields_of_a_step():
    figures = StepFigures(*LINE.values())
    assert json.dumps(figures.to_json()) == json.dumps(LINE)
    assert StepFigures.read(LINE) == figures


def test_missing_fields_in_a_line_of_an_older_version_are_none():
    assert StepFigures.read({"step": 3, "loss": 2.5, "other": 1}).peak_memory is None


def test_an_evaluation_is_written_with_one_entry_per_block_size():
    found = HeldOutEvaluation(6, {1: HeldOutLosses(None, 1.5), 8: HeldOutLosses(2.5, 1.5)})
    line = '{"step": 6, "losses": {"1": {"loss_mdm": null, "loss_ar": 1.5}, "8": {"loss_mdm": 2.5, "loss_ar": 1.5}}}'
    assert json.dumps(found.to_json()) == line
    assert HeldOutEvaluation.read(json.loads(line)) == found
