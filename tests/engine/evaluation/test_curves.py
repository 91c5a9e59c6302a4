"""The curves of an evaluation: which points they contain, and their AUP."""

from nbdiff_engine.evaluation.aup import aup
from nbdiff_engine.evaluation.curves import Measured, curves_of


def measured(model, strategy, size, threshold, tpf, accuracy):
    settings = {"strategy": strategy, "block_size": size, "threshold": threshold}
    return Measured(model, f"{strategy},{size},{threshold}", settings, tpf, accuracy)


AR = measured("nano", "ar", 1, None, 1.0, 0.80)
SMALL = [measured("nano", "block_diffusion", 8, 0.9, 3.0, 0.79), measured("nano", "block_diffusion", 8, 0.5, 4.0, 0.70)]
LARGE = [measured("nano", "block_diffusion", 16, 0.9, 6.0, 0.76)]


def test_a_curve_begins_at_ar_and_has_one_block_size_or_all():
    curves = curves_of([AR, *SMALL, *LARGE])
    assert [(each.block_size, [point.tokens_per_forward for point in each.points]) for each in curves] == [
        (8, [1.0, 3.0, 4.0]),
        (16, [1.0, 6.0]),
        (None, [1.0, 3.0, 4.0, 6.0]),
    ]
    assert curves[0].aup == aup([(1, 80), (3, 79), (4, 70)], best=80)
    assert curves[2].aup == aup([(1, 80), (3, 79), (4, 70), (6, 76)], best=80)


def test_points_that_lose_more_than_five_points_do_not_count():
    assert [point.counts for point in curves_of([AR, *SMALL])[0].points] == [True, True, False]


def test_curves_of_all_models_share_one_best_accuracy():
    other = [measured("other", "ar", 1, None, 1.0, 0.95), measured("other", "block_diffusion", 8, 0.9, 2.0, 0.95)]
    curves = curves_of([AR, *SMALL, *other])
    assert {each.best for each in curves} == {95.0}
    assert curves[0].aup == aup([(1, 80), (3, 79), (4, 70)], best=95)
    assert curves[0].aup < curves_of([AR, *SMALL])[0].aup


def test_a_curve_contains_only_ar_of_its_own_model():
    other = measured("other", "ar", 1, None, 1.0, 0.95)
    assert [len(each.points) for each in curves_of([other, *SMALL])] == [2, 2]


def test_ar_alone_and_unjudged_settings_give_no_curve():
    unjudged = measured("nano", "block_diffusion", 8, 0.9, 3.0, None)
    assert curves_of([AR, unjudged]) == []
    assert curves_of([measured("nano", "block_diffusion", 8, 0.9, 0.0, 0.5)]) == []
