"""`answers_in_turn`: the order of settings, warm-ups, finished batches, and stopping."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.evaluation import answering
from nbdiff_engine.evaluation.answering import BatchAnswers, DecodeProgress, answers_in_turn
from tests.tiny import tiny_model

BATCHES = [[[5, 9, 12]], [[7, 4]], [[8, 8, 8, 3]]]
SETTINGS = [
    DecodeSettings.of(strategy="ar", max_new_tokens=6, ignore_eos=True, trace=False),
    DecodeSettings.of(strategy="block_diffusion", block_size=4, max_new_tokens=6, ignore_eos=True, trace=False),
]


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return tiny_model("llama")


def test_settings_alternate_and_the_first_one_rotates(model: nb.BlockModel) -> None:
    stream = list(answers_in_turn(model, SETTINGS, BATCHES))
    answers = [each for each in stream if isinstance(each, BatchAnswers)]
    assert [(each.batch, each.setting) for each in answers] == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    for each in answers:
        (output,) = each.outputs
        settings = SETTINGS[each.setting].model_dump(exclude_unset=True)
        assert output.token_ids == nb.generate(model, BATCHES[each.batch][0], **settings).token_ids


def test_every_setting_warms_up_first_with_warm_up_tokens(model: nb.BlockModel) -> None:
    stream = list(answers_in_turn(model, SETTINGS, BATCHES, warm_up_tokens=2))
    warm = [each for each in stream if isinstance(each, DecodeProgress) and each.warm_up]
    assert stream[: len(warm)] == warm
    assert [each.setting for each in warm if each.events == 0] == [0, 1]
    assert max(each.events for each in warm if each.setting == 0) == 3  # a prefill, a commit and the finish


def test_finished_batches_are_skipped_and_a_finished_setting_does_not_warm_up(model: nb.BlockModel) -> None:
    done = {(0, 0), (0, 1), (0, 2), (1, 1)}
    stream = list(answers_in_turn(model, SETTINGS, BATCHES, done=done))
    assert {each.setting for each in stream} == {1}
    assert [each.batch for each in stream if isinstance(each, BatchAnswers)] == [0, 2]


def test_every_event_gives_progress_so_that_a_stop_takes_one_forward(
    model: nb.BlockModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def recorded(*arguments):
        try:
            return (yield from decode_batch(*arguments))
        except GeneratorExit:
            closed.append(arguments[2].strategy)
            raise

    decode_batch = answering.decode_batch
    monkeypatch.setattr(answering, "decode_batch", recorded)
    stream = answers_in_turn(model, SETTINGS[:1], BATCHES)
    first = next(each for each in stream if not each.warm_up)
    seen = [first, *(next(stream) for _ in range(3))]
    assert [each.events for each in seen] == [0, 1, 2, 3]
    stream.close()
    assert closed == ["ar"]
