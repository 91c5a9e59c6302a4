"""The plan of a call: defaults from the checkpoint's spec, refused settings, and notes for the caller."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.plan import make_plan
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.token_choice.unmasking import POLICIES
from tests.tiny import UNSHIFTED, tiny_model


def test_an_output_has_the_settings_it_was_decoded_with(golden_model):
    settings = nb.generate(golden_model, "Hello", max_new_tokens=3).settings
    assert settings["strategy"] == "block_diffusion"
    assert (settings["block_size"], settings["unmasking"], settings["threshold"]) == (32, "confidence", 0.9)


def test_strategies_that_need_an_ar_pass_are_refused_without_one():
    model = tiny_model("llama", spec=UNSHIFTED)
    for strategy in ("ar", "self_speculative"):
        with pytest.raises(nb.SettingError, match="which is no AR pass"):
            nb.generate(model, [5, 6], strategy=strategy)


def planned(model, **settings):
    return make_plan(model, DecodeSettings.of(**settings))


def test_the_spec_fills_in_missing_settings():
    model = tiny_model("llama", spec={"sub_block_size": 4, "unmasking": "factor", "threshold": 0.7})
    filled = planned(model).settings
    assert (filled.strategy, filled.block_size, filled.sub_block_size) == ("block_diffusion", 8, 4)
    assert (filled.unmasking, filled.threshold) == ("factor", 0.7)
    assert planned(model, block_size=2).settings.sub_block_size == 2
    chosen = planned(model, unmasking="top_k", block_size=4, sub_block_size=2, threshold=0.5).settings
    assert (chosen.unmasking, chosen.block_size, chosen.sub_block_size, chosen.threshold) == ("top_k", 4, 2, 0.5)


def test_candidates_are_verified_only_where_they_are_asked_for_or_chosen_by_cost(llama):
    def count(**settings):
        return planned(llama, **settings).settings.draft_candidates

    assert count(strategy="self_speculative") == 0
    assert count(strategy="self_speculative", draft_layout="auto") == 8
    assert count(strategy="self_speculative", draft_layout="auto", draft_candidates=0) == 0
    assert count(strategy="self_speculative", draft_candidates=3) == 3
    assert count(strategy="block_diffusion", draft_candidates=3) is None
    with pytest.raises(nb.SettingError, match="draft_candidates"):
        planned(llama, strategy="self_speculative", draft_candidates=16)


def test_ar_has_neither_blocks_nor_a_policy(llama):
    plan = planned(llama, strategy="ar", block_size=4, unmasking="top_k")
    assert (plan.settings.block_size, plan.settings.unmasking, plan.policy, plan.notes) == (1, None, None, ())


def test_a_policy_gets_the_value_of_its_setting(llama):
    prediction = Prediction([4, 5, 6], [0.5, 0.9, 0.95])
    plan = planned(llama, unmasking="confidence", threshold=0.8)
    assert plan.policy is POLICIES["confidence"]
    assert set(plan.positions_to_fix(prediction, 0)) == {1, 2}
    assert set(planned(llama, unmasking="top_k", tokens_per_step=1).positions_to_fix(prediction, 0)) == {2}
    assert len(planned(llama, unmasking="fixed_steps", steps_per_block=3).positions_to_fix(prediction, 1)) == 2


def test_only_a_block_larger_than_trained_gives_a_note(llama):
    assert planned(llama, block_size=8).notes == ()
    (note,) = planned(llama, strategy="self_speculative", block_size=9).notes
    assert str(note) == f"block size 9 is larger than the 8 that {llama.name} was trained for; expect worse text"


def test_the_mask_is_forbidden_and_an_eos_can_be_ignored(golden_model):
    plan = planned(golden_model)
    assert plan.sampler.forbidden == (golden_model.spec.mask_token_id,)
    assert plan.eos_token_ids == golden_model.eos_token_ids != frozenset()
    assert planned(golden_model, ignore_eos=True).eos_token_ids == frozenset()


def test_the_context_length_limits_the_last_block(llama):
    plan = planned(llama, block_size=8)
    assert [plan.block_width(llama.context_length - left) for left in (100, 8, 3)] == [8, 8, 3]


def test_stop_strings_need_a_tokenizer(llama):
    with pytest.raises(nb.SettingError, match="has no tokenizer, so stop strings cannot be looked for"):
        planned(llama, stop="x")


@pytest.mark.parametrize("name", ["stop_token_ids", "logit_bias"])
def test_token_ids_are_those_of_the_vocabulary_and_not_mask(llama, name):
    for token, sentence in (
        (48, "has ids 0 to 47"),
        (llama.spec.mask_token_id, "which is MASK: it is never predicted"),
    ):
        with pytest.raises(nb.SettingError, match=f"{name} has the token id {token}.*{sentence}"):
            planned(llama, **{name: [token] if name == "stop_token_ids" else {token: 1.0}})
