"""Evaluation: pooled figures, paired comparisons and settings, on a model that answers poorly."""

import json

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.evaluation import answering
from nbdiff_engine.evaluation import run as running
from nbdiff_engine.evaluation.answering import decode_batch
from nbdiff_engine.evaluation.pairs import top_two_gap
from nbdiff_engine.evaluation.run import evaluate
from nbdiff_engine.evaluation.settings_grid import label_of, parse_setting
from nbdiff_engine.evaluation.statistics import difference_interval, mcnemar_p
from nbdiff_engine.evaluation.table import table
from nbdiff_engine.tasks import DOMAINS, Problem, Verdict
from nbdiff_engine.trace.events import Commit, FinishReason, Prefill
from tests.conftest import GOLDEN
from tests.tiny import tiny_model

MODEL = str(GOLDEN / "tiny-block-diffusion")
PROMPTS = {
    "math": ("What is 3 plus 4?", "What is 12 minus 5?"),
    "code": ("Write a Python function solve that returns the sorted list of the negative numbers in a list.",),
    "knowledge": ("What is the capital of Germany?", "Name the capitals of Peru and Germany."),
    "story": ("Tell a short story about Max, a mouse and a green key.",),
}
PROBLEMS = [Problem(domain, prompt, "", {}) for domain, prompts in PROMPTS.items() for prompt in prompts]
AR, DIFFUSION, SPECULATIVE = (label_of(each) for each in running.DEFAULT_SETTINGS)


def fake_check(problem: Problem, text: str, run_code: bool = True) -> Verdict:
    """A verdict from the bytes of the text alone; about half of all texts are right."""
    if problem.domain == "code" and not run_code:
        return Verdict(None, "not run")
    return Verdict(sum(text.encode()) % 2 == 0, "by its bytes")


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load(MODEL, dtype="float32")


@pytest.fixture(scope="module")
def recorded(model):
    """An evaluation under the default settings, and the outputs it is made of, by strategy."""
    outputs: dict[str, list[nb.Output]] = {}

    def recorder(model, prompts, settings):
        found = yield from decode_batch(model, prompts, settings)
        outputs.setdefault(settings.strategy, []).extend(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "decode_batch", recorder)
        patch.setattr(running, "check", fake_check)
        done = evaluate([model], PROBLEMS, max_new_tokens=48)
    return done, {strategy: own[1:] for strategy, own in outputs.items()}  # the first is the warm-up


@pytest.fixture(scope="module")
def report(recorded) -> dict:
    return json.loads(json.dumps(recorded[0].to_json(), allow_nan=False))


# -- figures --------------------------------------------------------------------------------------------


def test_every_setting_answers_every_prompt_after_a_warm_up(recorded):
    done, outputs = recorded
    assert [each.setting for each in done.models[0].results] == [AR, DIFFUSION, SPECULATIVE]
    assert {strategy: len(own) for strategy, own in outputs.items()} == dict.fromkeys(
        ("ar", "block_diffusion", "self_speculative"), len(PROBLEMS)
    )
    assert all(output.trace is None for own in outputs.values() for output in own)


@pytest.mark.parametrize("index", range(3))
def test_figures_are_pooled_over_the_outputs(recorded, index):
    done, outputs = recorded
    result = done.models[0].results[index]
    own = outputs[result.settings["strategy"]]
    for domain, figures in (*result.domains.items(), (None, result.overall)):
        chosen = [out for out, problem in zip(own, PROBLEMS, strict=True) if domain in (None, problem.domain)]
        metrics = [each.metrics for each in chosen]
        numerator = sum(len(each.token_ids) - 1 for each in chosen)
        assert figures.n == len(chosen)
        assert figures.tokens_per_forward == pytest.approx(numerator / sum(m.decode_forwards for m in metrics))
        assert figures.tokens_per_second == pytest.approx(numerator / sum(m.decode_seconds for m in metrics))
        assert figures.mean_output_tokens == pytest.approx(numerator / len(chosen) + 1)
        assert figures.seconds == pytest.approx(sum(m.prefill_seconds + m.decode_seconds for m in metrics))
        assert figures.cut_by_length == sum(o.finish_reason == FinishReason.LENGTH for o in chosen) / len(chosen)
        if result.settings["strategy"] == "self_speculative":
            assert (figures.drafted, figures.accepted) == (
                sum(m.drafted for m in metrics),
                sum(m.accepted for m in metrics),
            )
        else:
            assert figures.drafted is None
            assert figures.accepted is None
    assert list(result.domains) == list(DOMAINS)
    assert done.models[0].results[0].overall.tokens_per_forward == 1.0


def test_programs_of_a_model_that_is_not_bundled_are_not_judged(recorded, model, monkeypatch):
    done, outputs = recorded
    result = done.models[0].results[0]
    assert not done.models[0].code_run
    assert (result.domains["code"].judged, result.domains["code"].accuracy) == (0, None)
    right = [
        fake_check(problem, output.text).correct
        for problem, output in zip(PROBLEMS, outputs["ar"], strict=True)
        if problem.domain != "code"
    ]
    assert (result.overall.n, result.overall.judged) == (len(PROBLEMS), len(right))
    assert result.overall.accuracy == sum(right) / len(right)
    assert "Code answers are not judged" in table(done)

    monkeypatch.setattr(running, "check", fake_check)
    run = evaluate([model], PROBLEMS[2:3], [DecodeSettings.of(strategy="ar")], max_new_tokens=8, run_code=True)
    assert run.models[0].code_run
    assert run.models[0].results[0].domains["code"].judged == 1
    assert "not judged" not in table(run)

    monkeypatch.setattr(running, "check", lambda problem, text, run_code: Verdict(None, "No sandbox here."))
    tried = evaluate([model], PROBLEMS[2:3], [DecodeSettings.of(strategy="ar")], max_new_tokens=8, run_code=True)
    assert tried.models[0].not_judged == "No sandbox here."
    assert "Not every code answer was judged. No sandbox here." in table(tried)
    assert tried.models[0].results[0].overall.accuracy is None


def test_programs_of_a_bundled_model_are_judged(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    monkeypatch.setattr(running, "bundled_models", lambda: {MODEL: GOLDEN})
    settings = [DecodeSettings.of(strategy="ar")]
    assert evaluate([model], PROBLEMS[2:3], settings, max_new_tokens=4).models[0].code_run
    assert not evaluate([model], PROBLEMS[2:3], settings, max_new_tokens=4, run_code=False).models[0].code_run


def test_settings_alternate_on_each_prompt(model, monkeypatch):
    order = []

    def recorder(model, prompts, settings):
        order.append((len(prompts[0]), settings.strategy))
        return (yield from decode_batch(model, prompts, settings))

    monkeypatch.setattr(answering, "decode_batch", recorder)
    monkeypatch.setattr(running, "check", fake_check)
    evaluate([model], PROBLEMS[:2], max_new_tokens=4)
    strategies = [strategy for _, strategy in order]
    turns = [strategies[start : start + 3] for start in range(0, 9, 3)]  # the warm-up, then two prompts
    assert all(set(turn) == {"ar", "block_diffusion", "self_speculative"} for turn in turns)
    assert turns[1][0] != turns[2][0]
    assert len({length for length, _ in order[3:6]}) == 1


def test_the_thread_count_is_restored(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    monkeypatch.setattr(running, "choose_threads", lambda _: torch.set_num_threads(2) or 2)
    before = torch.get_num_threads()
    done = evaluate([model], PROBLEMS[:1], [DecodeSettings.of(strategy="ar")], max_new_tokens=2)
    assert done.models[0].threads == 2
    assert torch.get_num_threads() == before


# -- paired comparisons ---------------------------------------------------------------------------------


def test_verdicts_are_paired_prompt_by_prompt(recorded):
    done, outputs = recorded
    comparison = done.comparisons[0]
    verdicts = [
        (fake_check(problem, one.text).correct, fake_check(problem, ar.text).correct)
        for problem, one, ar in zip(PROBLEMS, outputs["block_diffusion"], outputs["ar"], strict=True)
        if problem.domain != "code"
    ]
    b, c = verdicts.count((True, False)), verdicts.count((False, True))
    assert b + c > 0  # otherwise the test compares nothing
    assert (comparison.setting, comparison.baseline_setting) == (DIFFUSION, AR)
    assert (comparison.judged, comparison.only_this_right, comparison.only_baseline_right) == (len(verdicts), b, c)
    results = done.models[0].results
    assert comparison.accuracy_points == pytest.approx(
        100 * (results[1].overall.accuracy - results[0].overall.accuracy)
    )
    assert comparison.mcnemar_p == mcnemar_p(b, c)
    assert comparison.interval_points == pytest.approx([100 * end for end in difference_interval(b, c, len(verdicts))])
    assert comparison.seconds_ratio == pytest.approx(results[1].overall.seconds / results[0].overall.seconds)


def test_self_speculation_is_identical_to_ar_and_block_diffusion_is_not(recorded):
    done, outputs = recorded
    diffusion, speculative = done.comparisons
    assert (speculative.identical, speculative.differences) == (len(PROBLEMS), ())
    same = [one.token_ids == ar.token_ids for one, ar in zip(outputs["block_diffusion"], outputs["ar"], strict=True)]
    assert diffusion.identical == sum(same) < len(PROBLEMS)
    assert [each.problem for each in diffusion.differences] == [at for at, equal in enumerate(same) if not equal]


def test_the_gap_at_a_difference_is_that_of_ar(recorded, model):
    done, outputs = recorded
    for difference in done.comparisons[0].differences:
        one, ar = (outputs[name][difference.problem].token_ids for name in ("block_diffusion", "ar"))
        at = difference.position
        assert one[:at] == ar[:at]
        assert one[at] != ar[at]
        assert difference.domain == PROBLEMS[difference.problem].domain
        events = nb.stream(model, PROBLEMS[difference.problem].prompt, strategy="ar", max_new_tokens=48)
        fixed = [each for event in events if isinstance(event, (Prefill, Commit)) for each in event.fixed]
        best, second = fixed[at].confidence, fixed[at].alternatives[0][1]
        # The trace keeps 6 decimals, so a small probability has few digits.
        expected = torch.log(torch.tensor(best / second)).item()
        assert difference.logit_gap == pytest.approx(expected, abs=1e-4 + 2e-6 / second)


def test_the_gap_ignores_the_mask_token(model, monkeypatch):
    logits = torch.zeros(1, model.vocab_size)
    logits[0, model.spec.mask_token_id], logits[0, 7], logits[0, 9] = 9.0, 3.0, 1.0

    class Session:
        def prefill(self, prompts):
            return logits.clone()

    monkeypatch.setattr(model, "open", lambda rows, length: Session())
    assert top_two_gap(model, [5, 6]) == 2.0


def test_sampled_and_shorter_answers_have_no_gap(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    settings = [
        DecodeSettings.of(strategy="ar", max_new_tokens=4),
        DecodeSettings.of(strategy="self_speculative", max_new_tokens=3),
        DecodeSettings.of(strategy="ar", max_new_tokens=4, temperature=5.0, seed=3),
    ]
    shorter, sampled = evaluate([model], PROBLEMS[:1], settings).comparisons
    assert [(each.position, each.logit_gap) for each in shorter.differences] == [(3, None)]
    assert [each.logit_gap for each in sampled.differences] == [None]


def test_ar_of_each_model_is_compared_with_that_of_the_first(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    parent = nb.BlockModel(model.network, model.tokenizer, None, "parent")
    done = evaluate([parent, model], PROBLEMS[:4], max_new_tokens=16)
    assert [[each.setting for each in own.results] for own in done.models] == [[AR], [AR, DIFFUSION, SPECULATIVE]]
    assert [(each.model, each.setting, each.baseline_model) for each in done.comparisons] == [
        (MODEL, DIFFUSION, MODEL),
        (MODEL, SPECULATIVE, MODEL),
        (MODEL, AR, "parent"),
    ]
    across = done.comparisons[2]
    assert (across.accuracy_points, across.mcnemar_p) == (0.0, 1.0)  # the same weights
    assert (across.seconds_ratio, across.identical, across.differences) == (None, None, None)
    assert "ar against ar of parent" in table(done)


# -- JSON -----------------------------------------------------------------------------------------------


def test_the_json_has_these_fields(report):
    assert set(report["models"][0]["results"][1]) == {"setting", "settings", "overall", "domains"}
    assert set(report["models"][0]["results"][1]["overall"]) == {
        "n",
        "judged",
        "accuracy",
        "accuracy_interval",
        "tokens_per_forward",
        "tokens_per_second",
        "mean_output_tokens",
        "seconds",
        "drafted",
        "accepted",
        "cut_by_length",
    }
    assert set(report["comparisons"][0]) == {
        "model",
        "setting",
        "baseline_model",
        "baseline_setting",
        "judged",
        "accuracy_points",
        "interval_points",
        "only_this_right",
        "only_baseline_right",
        "mcnemar_p",
        "seconds_ratio",
        "tokens_per_second_ratio",
        "identical",
        "differences",
    }
    assert set(report["comparisons"][0]["differences"][0]) == {"problem", "domain", "position", "logit_gap"}


# -- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["ar", "block_diffusion,block_size=8,threshold=0.7", "self_speculative,temperature=0.5,stop=###,ignore_eos=True"],
)
def test_a_setting_and_its_label_are_the_same_text(text):
    assert label_of(parse_setting(text)) == text


def test_a_missing_ar_setting_is_added_first(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    chosen = parse_setting("block_diffusion,block_size=4,max_new_tokens=3")
    done = evaluate([model], PROBLEMS[:1], [chosen], max_new_tokens=4)
    first, second = done.models[0].results
    assert (first.setting, first.settings["max_new_tokens"]) == ("ar", 4)
    assert (second.settings["block_size"], second.settings["max_new_tokens"]) == (4, 3)


def test_a_checkpoint_without_ar_decoding_has_no_baseline(model, monkeypatch):
    monkeypatch.setattr(running, "check", fake_check)
    spec = model.spec.model_copy(update={"context": "block_causal"})
    other = nb.BlockModel(model.network, model.tokenizer, spec, "other")
    done = evaluate([other, model], PROBLEMS[:1], max_new_tokens=4)
    assert [each.setting for each in done.models[0].results] == [DIFFUSION]
    assert {each.model for each in done.comparisons} == {MODEL}
    assert "other: " in table(done)
    with pytest.raises(nb.SettingError, match="which is no AR pass"):
        evaluate([other], PROBLEMS, [DecodeSettings.of(strategy="ar")])


def test_impossible_evaluations_are_refused(model):
    parent = nb.BlockModel(model.network, model.tokenizer, None, "parent")
    with pytest.raises(nb.SettingError, match="parent is an autoregressive checkpoint"):
        evaluate([parent], PROBLEMS, [DecodeSettings.of(strategy="block_diffusion")])
    with pytest.raises(nb.SettingError, match="tiny-block-diffusion is given twice"):
        evaluate([model, model], PROBLEMS)
    with pytest.raises(nb.SettingError, match="setting ar is given twice"):
        evaluate([model], PROBLEMS, [DecodeSettings.of(strategy="ar")] * 2)
    with pytest.raises(nb.SettingError, match="has no strategy"):
        evaluate([model], PROBLEMS, [DecodeSettings.of(block_size=4)])
    with pytest.raises(nb.SettingError, match="no problem to evaluate"):
        evaluate([model], [])
    with pytest.raises(nb.SettingError, match="no model to evaluate"):
        evaluate([], PROBLEMS)
    with pytest.raises(nb.PromptError, match="no tokenizer"):
        evaluate([tiny_model("llama")], PROBLEMS)
