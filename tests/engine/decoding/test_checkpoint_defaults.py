"""The sampling that a checkpoint asks for: used where it is asked for, and otherwise mentioned once."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.plan import make_plan
from nbdiff_engine.decoding.settings import DecodeSettings
from tests.engine.answers import PROMPTS, ids
from tests.tiny import tiny_model

QWEN3 = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def asking(**entries) -> nb.BlockModel:
    model = tiny_model("llama")
    for name, value in entries.items():
        setattr(model.network.generation_config, name, value)
    return model


def planned(model, **settings):
    return make_plan(model, DecodeSettings.of(**settings))


def test_the_checkpoints_sampling_is_used_on_request():
    model = asking(**QWEN3, min_p=0.05, repetition_penalty=1.1)
    settings = planned(model, settings="checkpoint").settings
    assert (settings.temperature, settings.top_k, settings.top_p, settings.min_p) == (0.6, 20, 0.95, 0.05)
    assert settings.repetition_penalty == 1.1
    own = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1}
    how = {"strategy": "ar", "max_new_tokens": 20, "seed": 4}
    assert ids(model, PROMPTS, settings="checkpoint", **how) == ids(model, PROMPTS, **own, **how)


def test_given_settings_win():
    plan = planned(asking(**QWEN3), settings="checkpoint", temperature=0, top_k=5)
    assert (plan.settings.temperature, plan.settings.top_k, plan.settings.top_p) == (0, 5, 0.95)
    assert plan.notes == ()


def test_settings_of_an_answer_give_the_answer_again():
    model = asking(**QWEN3)
    output = nb.generate(model, PROMPTS[0], settings="checkpoint", max_new_tokens=12)
    assert nb.generate(model, PROMPTS[0], **output.settings).token_ids == output.token_ids


def test_sampling_entries_of_a_greedy_checkpoint_count_for_nothing():
    model = asking(do_sample=False, temperature=0.6, top_p=0.9)
    assert planned(model).notes == ()
    assert planned(model, settings="checkpoint").settings.temperature == 0
    assert planned(asking(do_sample=True), settings="checkpoint").settings.temperature == 1.0
    assert planned(asking(do_sample=True, top_k=0, top_p=1.0), settings="checkpoint").settings.top_k is None


def test_what_is_not_used_is_noted_once_for_each_model():
    for model in (asking(**QWEN3), asking(**QWEN3)):
        (note,) = planned(model).notes
        assert set(note.settings) == {"temperature=0.6", "top_k=20", "top_p=0.95"}
        assert str(note).endswith("this call does not use that; settings='checkpoint' does (--settings checkpoint)")
        assert "temperature=0.6" in str(note)
        assert hash(note)
        assert planned(model).notes == ()


def test_nothing_is_noted_where_the_caller_has_chosen_or_nothing_is_asked(llama):
    model = asking(**QWEN3)
    assert planned(model, temperature=0.0).notes == ()
    assert planned(model, settings="checkpoint").notes == ()
    assert planned(llama).notes == ()
    assert len(planned(model).notes) == 1  # still to be told


def test_a_warning_says_it_at_the_call():
    model = asking(repetition_penalty=1.2)
    with pytest.warns(UserWarning, match=r"generation_config.json of tiny-llama asks for repetition_penalty=1.2, and"):
        nb.generate(model, PROMPTS[0], max_new_tokens=2)


@pytest.mark.parametrize(
    "entry", [{"num_beams": 4}, {"no_repeat_ngram_size": 3}, {"suppress_tokens": [4, 5]}, {"typical_p": 0.9}]
)
def test_what_this_engine_does_not_have_is_named_and_refused(entry):
    ((name, value),) = entry.items()
    (note,) = planned(asking(**entry)).notes
    assert f"asks for {name}={value}" in str(note)
    assert "this engine does not have" in str(note)
    assert hash(note)
    with pytest.raises(nb.SettingError, match=rf"asks for {name}=.*, which this engine does not have; leave out"):
        planned(asking(**entry), settings="checkpoint")
    (both,) = planned(asking(**entry, **QWEN3)).notes
    assert "; give temperature=0.6, top_k=20, top_p=0.95 yourself if you want it" in str(both)
    assert "--settings checkpoint" not in str(both)


def test_neutral_entries_are_nothing_to_mention():
    model = asking(num_beams=1, no_repeat_ngram_size=0, typical_p=1.0, repetition_penalty=1.0, min_length=0)
    assert planned(model).notes == ()
    assert planned(model, settings="checkpoint").settings.repetition_penalty == 1.0


def test_a_value_out_of_range_names_the_file():
    with pytest.raises(nb.SettingError) as caught:
        planned(asking(do_sample=True, top_p=1.5), settings="checkpoint")
    assert str(caught.value) == (
        "The generation_config.json of tiny-llama does not fit: top_p is 1.5; it must be above 0 and at most 1."
    )


def test_stop_strings_of_a_checkpoint_need_its_tokenizer():
    with pytest.raises(nb.SettingError, match="has no tokenizer"):
        planned(asking(stop_strings=["###"]), settings="checkpoint")
