"""The choice of drafts to verify and of places for noise, with costs and acceptance that are known."""

import pytest

from nbdiff_engine.decoding.draft_layout import (
    AdaptiveLayout,
    Draft,
    FixedLayout,
    LayoutChoice,
    Shape,
    likely_leaves,
    within,
)

SHAPE = Shape.of(8, adapter=True)
ROOM = 100
WRONG = 99


def drafts(*confidences: float) -> list[Draft]:
    return [Draft(10 + at, each, at) for at, each in enumerate(confidences, start=1)]


def cheap(tokens: int) -> float:
    return 1 + 0.005 * tokens


def dear(tokens: int) -> float:
    return float(tokens)


def test_rows_of_drafts():
    assert [SHAPE.rows(count) for count in (0, 1, 7)] == [0, 1, 7]
    paper = Shape.of(8, adapter=False)  # its first token, masks, and a last mask whose output was not trained
    assert (paper.most, paper.rows(6), paper.rows(0)) == (6, 8, 0)
    assert (Shape.of(1, adapter=True).most, Shape.of(2, adapter=False).most) == (0, 0)


def test_noise_fits_into_the_answer_and_into_the_pass():
    assert within((0, 3), 4, SHAPE, 7, ROOM) == ((0, 7), (3, 7))
    assert within((3, 0), 4, SHAPE, 7, 6) == ((0, 5), (3, 2))  # AR's token, then the room that is left
    assert within((3,), 4, SHAPE, 7, 4) == ()
    assert len(within(range(20), 20, SHAPE, 7, ROOM)) == 6  # 20 + 6 * 7 of 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("separate", LayoutChoice(4)),
        ("behind_last", LayoutChoice(2, ((2, 7),))),  # 0.9 * 0.8 > 0.5, and 0.9 * 0.8 * 0.6 is not
        ("behind_each", LayoutChoice(4, tuple((point, 7) for point in range(5)))),
    ],
)
def test_fixed_layouts(name, expected):
    layout = FixedLayout(name, SHAPE, 0.5)
    assert layout.choose([], ROOM, ()) == LayoutChoice(0, ((0, 7),))
    own = drafts(0.9, 0.8, 0.6, 0.9)
    assert layout.choose(own, ROOM, ()) == expected
    assert layout.choose(own, ROOM, {own[1].token}) == LayoutChoice(expected.verified)  # an EOS is drafted
    assert layout.choose(own, 1, ()).verified == 0
    assert layout.choose([], 1, ()) == LayoutChoice()


def played(layout: AdaptiveLayout, right: float, tokens: int) -> tuple[float, float, list[LayoutChoice]]:
    """Decode tokens where drafts are right at an even rate; the cost by `cheap` widths and by AR, the choices."""
    held: list[Draft] = []
    chosen, settled, seen = [], 0, 0.0
    while settled < tokens:
        choice = layout.choose(held, ROOM, ())
        chosen.append(choice)
        agreed, tested = 0, []
        for draft in held[: choice.verified + 1]:
            seen += right
            good = seen >= 1
            seen -= good
            tested.append((draft, draft.token if good else WRONG))
            if not good:
                break
            agreed += len(tested) <= choice.verified
        layout.observe(tested)
        count = dict(choice.points).get(agreed, 0)
        held = drafts(*[right] * count)
        settled += 1 + agreed
    return chosen, settled


def cost_of(choices, cost, shape=SHAPE) -> float:
    widths = (1 + each.verified + sum(shape.rows(count) for _, count in each.points) for each in choices)
    return sum(cost(width) / cost(1) for width in widths)


@pytest.mark.parametrize("cost", [cheap, dear, lambda tokens: 1 + 0.04 * tokens])
def test_useless_drafts_are_given_up(cost):
    choices, settled = played(AdaptiveLayout(SHAPE, cost, 1, True), 0.0, 128)
    assert cost_of(choices, cost) <= 1.1 * settled
    if cost is not dear:
        assert sum(bool(each.points) for each in choices) >= 2  # and tried again


def test_good_drafts_are_used_and_noise_stands_where_it_pays():
    choices, settled = played(AdaptiveLayout(SHAPE, cheap, 1, True), 0.9, 300)
    assert settled / cost_of(choices, cheap) > 3
    assert any(len(each.points) > 1 for each in choices)  # width is cheap here
    linear, settled = played(AdaptiveLayout(SHAPE, lambda tokens: 1 + 0.1 * tokens, 1, True), 0.9, 300)
    points = [len(each.points) for each in linear]
    assert sum(points) / len(points) < 1.2
    assert settled / cost_of(linear, lambda tokens: 1 + 0.1 * tokens) > 1.3


def test_where_a_token_costs_as_much_as_a_forward_nothing_is_drafted():
    choices, settled = played(AdaptiveLayout(SHAPE, dear, 1, True), 0.9, 64)
    assert cost_of(choices, dear) <= 1.1 * settled


def test_a_batch_makes_width_dearer():
    """Of rows that are decoded together, each pays for its width."""

    def cost(tokens: int) -> float:  # free up to 16 tokens
        return max(1.0, tokens / 16)

    alone, many = (played(AdaptiveLayout(SHAPE, cost, rows, True), 0.6, 200)[0] for rows in (1, 16))
    assert sum(len(each.points) for each in alone) > 2 * sum(len(each.points) for each in many)


def test_without_backoff_every_forward_without_drafts_makes_some():
    layout = AdaptiveLayout(SHAPE, dear, 1, False)
    assert layout.choose([], ROOM, ()).points
    layout.observe([(drafts(0.9)[0], WRONG)] * 20)
    assert layout.choose([], ROOM, ()).points


def test_drafts_that_hold_an_eos_are_verified_without_noise_behind_them():
    layout = AdaptiveLayout(SHAPE, cheap, 1, True)
    own = drafts(0.95, 0.95, 0.95)
    assert layout.choose(own, ROOM, ()).points
    choice = layout.choose(own, ROOM, {own[0].token})
    assert choice.verified == 0 or not choice.points


# -- candidates -----------------------------------------------------------------------------------------


def with_others(*confidences: float) -> list[Draft]:
    """Drafts that are right if AR's token is 10 + distance, each with two other tokens."""
    return [Draft(10 + at, each, at, ((20 + at, 0.6), (30 + at, 0.3))) for at, each in enumerate(confidences, start=1)]


def test_candidates_stand_in_the_order_of_their_joint_probability():
    own = with_others(0.5, 0.8)
    found = [(leaf.distance, leaf.token) for leaf in likely_leaves(own, [0.5, 0.4], ROOM)]
    # As candidates the drafts have 0.5 and 0.4; others 0.5 * 0.6, 0.5 * 0.3 and 0.1 * 0.6, 0.1 * 0.3.
    assert found == [(1, 11), (2, 12), (1, 21), (1, 31), (2, 22), (2, 32)]
    chances = [leaf.chance for leaf in likely_leaves(own, [0.5, 0.4], ROOM)]
    assert chances == pytest.approx([0.5, 0.4, 0.3, 0.15, 0.06, 0.03])
    assert all(leaf.distance == 1 for leaf in likely_leaves(own, [0.5, 0.4], 2))  # AR's token follows
    assert likely_leaves(own, [0.5, 0.4], 1) == []


def test_a_fixed_layout_verifies_the_most_likely_candidates():
    own = with_others(0.9, 0.8, 0.6, 0.9)
    separate = FixedLayout("separate", SHAPE, 0.5, 3).choose(own, ROOM, ())
    # Wrong at 1: 0.1, at 2: 0.18, at 3: 0.288, at 4: 0.043; no draft is a candidate, as all are verified.
    assert separate == LayoutChoice(4, (), ((3, 23), (2, 22), (3, 33)))
    behind = FixedLayout("behind_last", SHAPE, 0.5, 3).choose(own, ROOM, ())
    assert behind == LayoutChoice(2, ((2, 7),), ((3, 13), (3, 23), (2, 22)))  # the third draft is one
    assert (separate.reach, behind.reach, LayoutChoice(2).reach) == (4, 3, 2)
    assert FixedLayout("separate", SHAPE, 0.5).choose(own, ROOM, ()).leaves == ()
    narrow = FixedLayout("behind_each", SHAPE, 0.5, 15).choose(with_others(*[0.5] * 7), ROOM, ())
    assert 1 + narrow.verified + len(narrow.leaves) + sum(count for _, count in narrow.points) <= 64


def settled_with(cost, candidates: int, found: float, tokens: int = 400) -> tuple[float, AdaptiveLayout]:
    """Tokens per cost of drafts that are right every second time; else AR's token is the first candidate with an even
    rate. After an accepted candidate there is no draft."""
    layout = AdaptiveLayout(SHAPE, cost, 1, True, candidates)
    held: list[Draft] = []
    settled, spent, seen, turn = 0, 0.0, 0.0, 0
    while settled < tokens:
        choice = layout.choose(held, ROOM, ())
        width = 1 + choice.verified + len(choice.leaves) + sum(count for _, count in choice.points)
        spent += cost(width) / cost(1)
        agreed, tested, hit = 0, [], False
        for draft in held[: choice.verified + 1]:
            turn += 1
            if turn % 2:
                tested.append((draft, draft.token))
                agreed += len(tested) <= choice.verified
                continue
            seen += found
            token = draft.others[0][0] if seen >= 1 else WRONG
            seen -= seen >= 1
            tested.append((draft, token))
            hit = (draft.distance, token) in choice.leaves
            break
        layout.observe(tested)
        held = with_others(*[0.5] * dict(choice.points).get(agreed, 0)) if not hit else []
        settled += 1 + agreed + hit
    return settled / spent, layout


def test_auto_verifies_candidates_where_they_pay():
    def flat(tokens: int) -> float:
        return 1 + 0.004 * tokens

    def steep(tokens: int) -> float:
        return 1 + 0.1 * tokens

    def used(layout: AdaptiveLayout) -> int:
        return len(layout.choose(with_others(0.5, 0.5, 0.5), ROOM, ()).leaves)

    rate, often = settled_with(flat, 8, 0.8)
    assert used(often) > 0
    assert rate >= settled_with(flat, 0, 0.8)[0]
    assert used(settled_with(flat, 1, 0.8)[1]) <= 1
    assert used(settled_with(steep, 8, 0.8)[1]) < used(often)
    assert used(settled_with(steep, 8, 0.0)[1]) == 0  # none of them was ever right


@pytest.mark.parametrize("cost", [cheap, dear, lambda tokens: 1 + 0.04 * tokens])
def test_useless_drafts_and_candidates_are_given_up(cost):
    layout = AdaptiveLayout(SHAPE, cost, 1, True, 8)
    held: list[Draft] = []
    spent = 0.0
    for _ in range(128):  # each forward settles AR's token only
        choice = layout.choose(held, ROOM, ())
        spent += cost(1 + choice.verified + len(choice.leaves) + sum(n for _, n in choice.points)) / cost(1)
        layout.observe([(draft, WRONG) for draft in held[:1]])
        held = with_others(*[0.6] * dict(choice.points).get(0, 0))
    assert spent <= 1.1 * 128


def test_drafts_are_verified_without_new_ones_where_noise_rows_are_dear():
    """Noise rows cost half a forward more, however few; clean rows cost nothing."""

    def noise(tokens: int) -> float:
        return 1.5 if tokens > 1 else 1.0

    def choices(clean_cost) -> list:
        layout = AdaptiveLayout(SHAPE, noise, 1, True, clean_cost=clean_cost)
        return played(layout, 0.6, 200)[0]

    def mixed(found) -> float:
        verifying = [each for each in found if each.verified]
        return sum(bool(each.points) for each in verifying) / len(verifying)

    assert mixed(choices(None)) > 0.9
    assert mixed(choices(lambda tokens: 1.0)) < mixed(choices(None))
