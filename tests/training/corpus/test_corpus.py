"""The corpus: problems depend only on their arguments, splits share no prompt, answers are right and short."""

import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from nbdiff_engine.tasks import DOMAINS, check, held_out, sandbox
from nbdiff_engine.tasks.held_out import HELD_OUT_FILE
from training.corpus import code, knowledge, math, story
from training.corpus.facts import COUNTRIES
from training.corpus.keyed_problem import KeyedProblem
from training.corpus.problems import example
from training.corpus.questions import COMPOSED, RELATIONS
from training.corpus.samples import render
from training.corpus.scenes import PUZZLES, SCENES
from training.corpus.write_held_out import held_out_problems, write_held_out
from training.errors import DataError

MODULES = {"math": math, "code": code, "knowledge": knowledge, "story": story}
# approximate tokens: every word is one, and so is every digit
PIECES = re.compile(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+|\s+")
each_domain = pytest.mark.parametrize("domain", DOMAINS)


def problems(domain: str, split: str, count: int, seed: int = 0) -> list:
    return [example(domain, split, index, seed) for index in range(count)]


@each_domain
def test_a_problem_depends_only_on_its_arguments(domain):
    first = problems(domain, "train", 50)
    assert [example(domain, "train", index) for index in reversed(range(50))][::-1] == first
    assert problems(domain, "train", 50, seed=1) != first
    assert problems(domain, "test", 50) != first
    assert example(domain, "train", 10**12).domain == domain


@each_domain
def test_no_prompt_is_in_both_splits_for_any_seeds(domain):
    train = {problem.prompt for seed in range(3) for problem in problems(domain, "train", 3_000, seed)}
    test = {problem.prompt for seed in (0, 1, 7) for problem in problems(domain, "test", 200, seed)}
    assert not train & test


@each_domain
def test_a_prompt_has_one_answer_and_one_key(domain):
    rng = Random(domain)
    seen: dict[str, tuple[str, str]] = {}
    for _ in range(8_000):
        draft = MODULES[domain].draw(rng)
        found = (draft.key, draft.problem.answer)
        assert seen.setdefault(draft.problem.prompt, found) == found


def test_bare_sums_share_no_prompt_with_the_test_split_of_math():
    train = problems("sums", "train", 3_000)
    assert all(problem.domain == "math" for problem in train)
    assert all(check(problem, problem.answer).correct for problem in train)
    test = {problem.prompt for seed in (0, 1, 7) for problem in problems("math", "test", 2_000, seed)}
    assert not test & {problem.prompt for problem in train}
    assert "sums" not in DOMAINS


def test_about_a_twentieth_of_the_keys_is_in_the_test_split():
    problem = held_out("math", 1)[0]
    splits = Counter(KeyedProblem(f"key {number}", problem).split for number in range(10_000))
    assert 400 < splits["test"] < 600


@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if domain != "code"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_reference_answers_pass_their_checkers(domain, split):
    for problem in problems(domain, split, 2_000 if split == "train" else 300):
        verdict = check(problem, problem.answer)
        assert verdict.correct, (problem, verdict)


def test_reference_code_returns_the_expected_values():
    for index in range(40):
        problem = example("code", "test" if index % 2 else "train", index)
        verdict = check(problem, problem.answer)
        assert verdict.correct, (problem, verdict)


def test_the_sandbox_accepts_all_reference_code():
    assert all(sandbox.refusal(problem.answer) is None for problem in problems("code", "train", 1_500))


@each_domain
def test_an_answer_to_another_question_is_wrong(domain):
    some = problems(domain, "test", 8 if domain == "code" else 200)
    pairs = [(one, other) for one, other in pairwise(some) if one.facts != other.facts]
    assert sum(not check(one, other.answer).correct for one, other in pairs) > 0.9 * len(pairs)


def test_numbers_are_below_a_thousand_and_mostly_small():
    numbers = [
        int(number)
        for problem in problems("math", "train", 3_000)
        for number in re.findall(r"\d+", f"{problem.prompt} {problem.answer}")
    ]
    assert max(numbers) <= 999
    assert sum(number >= 200 for number in numbers) < 0.03 * len(numbers)


def test_every_equation_is_true_and_products_have_small_factors():
    for problem in problems("math", "train", 3_000):
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", problem.answer)
        assert 1 <= len(equations) <= 4
        for left, operation, right, result in equations:
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation] == c
            if operation == "*":
                assert c < 200
                assert min(a, b) <= 12
                assert max(a, b) <= 20
        assert int(equations[-1][-1]) == problem.facts["result"]


def test_math_has_the_specified_shares_of_steps():
    steps = Counter(problem.answer.count("=") for problem in problems("math", "train", 4_000))
    shares = [steps[count] / 4_000 for count in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.35, 0.35, 0.2, 0.1], abs=0.03)
    assert len(SCENES) + len(PUZZLES) >= 14


@each_domain
def test_answers_and_prompts_are_short(domain):
    some = problems(domain, "train", 1_000)
    assert max(len(PIECES.findall(problem.answer)) for problem in some) <= 75
    assert max(len(PIECES.findall(problem.prompt)) for problem in some) <= 60
    assert all(problem.answer.endswith(".") or domain == "code" for problem in some)
    assert all(len(problem.answer.split()) >= 4 for problem in some)


def test_all_domains_together_use_about_a_thousand_words():
    words: set[str] = set()
    for domain in DOMAINS:
        for problem in problems(domain, "train", 2_000):
            words.update(re.findall(r"[A-Za-z]+", f"{problem.prompt} {problem.answer}"))
    assert len(words) < 1_100


@pytest.mark.parametrize(
    ("domain", "prompts", "answers"),
    [("math", 490, 480), ("code", 495, 480), ("story", 498, 498), ("knowledge", 400, 250)],
)
def test_problems_rarely_repeat(domain, prompts, answers):
    some = problems(domain, "train", 500)
    assert len({problem.prompt for problem in some}) >= prompts
    assert len({problem.answer for problem in some}) >= answers


def test_code_has_more_than_two_thousand_bodies():
    bodies = {problem.answer.split("\n", 1)[1] for problem in problems("code", "train", 5_000)}
    assert len(bodies) > 2_000


def test_every_fact_has_at_least_three_wordings_in_train():
    problem = held_out("knowledge", 1)[0]
    for relation in RELATIONS.values():
        assert len(relation.asked) >= 5
        for entity in relation.facts:
            wordings = [KeyedProblem(asked.format(e=entity), problem).split for asked in relation.asked]
            assert wordings.count("train") >= 3


def test_both_facts_of_a_composed_question_exist():
    for kind in COMPOSED:
        assert len(kind.asked) >= 5
        assert all(value in RELATIONS[kind.second].facts for value in RELATIONS[kind.first].facts.values())


def test_the_facts_of_held_out_questions_are_in_train():
    trained = {sentence for problem in problems("knowledge", "train", 12_000) for sentence in sentences(problem.answer)}
    for problem in held_out("knowledge"):
        facts = [sentence for sentence in sentences(problem.answer) if not sentence.startswith("So ")]
        assert facts
        assert set(facts) <= trained


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.]+\.", text.replace(". ", ".\n").replace("\n", ""))


def test_there_are_48_countries_with_unique_capitals():
    assert len(COUNTRIES) == 48
    assert len({row[0] for row in COUNTRIES.values()}) == 48


def test_the_committed_held_out_file_equals_the_generated_one(tmp_path):
    assert held_out() == held_out_problems()
    write_held_out(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == HELD_OUT_FILE.read_bytes()


def test_no_held_out_prompt_repeats_or_is_in_train():
    prompts = {problem.prompt for problem in held_out()}
    assert len(prompts) == 400
    for domain in DOMAINS:
        assert not prompts & {problem.prompt for problem in problems(domain, "train", 4_000, seed=3)}


def test_samples_are_shown_with_their_answers_and_verdicts():
    text = render("math", "test", 2, seed=0)
    problem = example("math", "test", 1)
    assert problem.prompt in text
    assert problem.answer in text
    assert text.count("checker  It gives ") == 2
    assert "           return" in render("code", "train", 1)


def test_an_unknown_domain_or_split_raises_an_error():
    with pytest.raises(DataError, match="no domain 'poems'; it has math, code, knowledge, story"):
        example("poems", "train", 0)
    with pytest.raises(DataError, match="no split 'valid'; it has train and test"):
        example("math", "valid", 0)
