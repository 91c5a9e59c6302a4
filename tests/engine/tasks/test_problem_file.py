"""A user's own problems: which answers are right, and the error for a line that is not a problem."""

import json

import pytest

import nbdiff_engine as nb
from nbdiff_engine.tasks import check, held_out, problem_file
from nbdiff_engine.tasks.held_out import HELD_OUT_FILE
from nbdiff_engine.tasks.problem_file import read_problems


@pytest.fixture
def file(tmp_path):
    """Writes lines to a file. A line that is not text is written as JSON."""

    def write(*lines):
        path = tmp_path / "my.jsonl"
        texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
        path.write_bytes(b"\n".join(text.encode() if isinstance(text, str) else text for text in texts))
        return path

    return write


def right(problem, text) -> bool | None:
    return check(problem, text, run_code=True).correct


def test_a_line_needs_only_a_prompt_and_an_answer(file):
    (problem,) = read_problems(file({"prompt": "Capital of Peru?", "answer": "Lima"}))
    assert (problem.domain, problem.prompt, problem.answer, problem.rule) == (
        "problems",
        "Capital of Peru?",
        "Lima",
        "contains",
    )


def test_a_conversation_a_domain_and_an_id_are_kept(file):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 * 7?"}]
    (problem,) = read_problems(file({"prompt": turns, "answer": 42, "domain": "sums", "id": 7}))
    assert (problem.prompt, problem.domain, problem.id, problem.rule) == (turns, "sums", "7", "number")
    assert problem.asked == "Be brief.\n6 * 7?"


def test_empty_lines_a_byte_order_mark_and_windows_line_ends_are_accepted(file):
    path = file("\ufeff" + json.dumps({"prompt": "a", "answer": "b"}) + "\r", "", "  ", {"prompt": "c", "answer": "d"})
    assert [problem.prompt for problem in read_problems(path)] == ["a", "c"]


@pytest.mark.parametrize(
    ("rule", "answer", "text", "correct"),
    [
        ("contains", "Lima", "It is lima, of course.", True),
        ("contains", "Lima", "Climates differ.", False),
        ("contains", "New  York", "In new\nyork.", True),
        ("contains", "C++", "I like C++.", True),
        ("exact", "Lima", " Lima\n", True),
        ("exact", "Lima", "lima", False),
        ("exact", "Lima", "Lima.", False),
        ("number", "1234", "First 7, then 1,234.00 in all.", True),
        ("number", "#### 18", "So she has $18.", True),
        ("number", "-5", "The answer is \u22125", True),
        ("number", "12", "Pages 10-12", True),
        ("number", "12", "12 or 13", False),
        ("number", "12", "twelve", False),
        ("number", "0.1", "0.10", True),
        ("math", "The answer is 18.", "The answer is 18, and not 19.", True),
        ("math", "18", "19", False),
    ],
)
def test_an_answer_is_judged_by_its_check(file, rule, answer, text, correct):
    (problem,) = read_problems(file({"prompt": "?", "answer": answer, "check": rule}))
    assert right(problem, text) is correct


def test_the_bundled_checkers_take_facts(file):
    capital = {"prompt": "Capital of Peru?", "check": "knowledge", "answer": "Lima", "facts": {"others": ["Quito"]}}
    story = {"prompt": "A story of a fox.", "check": "story", "facts": {"must": ["fox"]}}
    code = {"prompt": "f doubles.", "check": "code", "facts": {"name": "f", "examples": [[[2], 4]]}}
    one, two, three = read_problems(file(capital, story, code))
    assert [right(one, text) for text in ("Lima.", "Lima or Quito.")] == [True, False]
    assert [right(two, text) for text in ("A fox. It ran. It hid.", "A cat. It ran. It hid.")] == [True, False]
    assert check(three, "def f(x):\n    return x * 2", run_code=False).correct is None
    assert right(three, "def f(x):\n    return x + 3") is False


def test_the_held_out_file_can_be_read_as_a_problem_file():
    own, bundled = read_problems(HELD_OUT_FILE), held_out()
    assert [(each.domain, each.prompt, each.facts, each.rule) for each in own] == [
        (each.domain, each.prompt, each.facts, each.domain) for each in bundled
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "it is not JSON: "),
        ("[1]", "it is [1], not a JSON object"),
        ('{"prompt": "a", "answer": NaN}', "NaN is not a JSON number"),
        (b'{"prompt": "\xff"}', "byte 13 of it is not UTF-8"),
        ("[" * 100_000, "it is nested too deeply"),
        ({"answer": "b"}, "'prompt' is missing"),
        ({"prompt": "a"}, "check contains needs an answer"),
        ({"prompt": "a", "anwser": "b"}, "'anwser' is not known here"),
        ({"prompt": 3, "answer": "b"}, "prompt is 3; it must be text, or a list of turns"),
        ({"prompt": [{"role": "user"}], "answer": "b"}, "prompt is [{'role': 'user'}]; it must be text, or a list"),
        ({"prompt": " ", "answer": "b"}, "the prompt is empty"),
        ({"prompt": [], "answer": "b"}, "the prompt is empty"),
        ({"prompt": "a", "answer": True}, "answer is True; it must be text or a number"),
        ({"prompt": "a", "answer": ["b"]}, "answer is ['b']"),
        ('{"prompt": "a", "answer": "\\ud800"}', "half of a surrogate pair"),
        ({"prompt": "a", "answer": "b", "check": "magic"}, "check is 'magic'; choose one of contains, exact, number"),
        ({"prompt": "a", "answer": "b", "check": "number"}, "answer is 'b', which contains no number"),
        ({"prompt": "a", "answer": "b", "facts": {"must": []}}, "check contains takes no facts"),
        ({"prompt": "a", "answer": "b", "check": "story"}, "check story needs facts with must"),
        ({"prompt": "a", "check": "code", "facts": {"name": "f"}}, "check code needs facts with name"),
        ({"prompt": "a", "answer": "b", "domain": "all"}, "domain is 'all'"),
        ({"prompt": "a", "answer": "b", "domain": "x\ny"}, "a domain is one line of printable text"),
        ({"prompt": "a", "answer": "b", "domain": ""}, "domain is ''; it must be text of 1 to 40 characters"),
        ({"prompt": "a", "answer": "b", "id": "first"}, "the id 'first' is already used in line 1"),
    ],
)
def test_the_error_for_a_bad_line_names_the_file_and_the_line(file, line, sentence):
    path = file({"prompt": "fine", "answer": "1", "id": "first"}, "", line)
    with pytest.raises(nb.NBDiffError) as error:
        read_problems(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_files_and_lines_have_a_size_limit(file, monkeypatch):
    path = file({"prompt": "fine", "answer": "1"}, {"prompt": "a" * 200, "answer": "1"})
    monkeypatch.setattr(problem_file, "MAX_LINE_BYTES", 100)
    with pytest.raises(nb.NBDiffError, match="line 2: it is longer than"):
        read_problems(path)
    monkeypatch.setattr(problem_file, "MAX_BYTES", 100)
    with pytest.raises(nb.NBDiffError, match="split the file"):
        read_problems(path)


def test_a_file_without_problems_gives_one_sentence(file, tmp_path):
    for path, sentence in (
        (file("", " "), "contains no problem"),
        (tmp_path, "that is a folder"),
        (tmp_path / "none.jsonl", "there is no such file"),
    ):
        with pytest.raises(nb.NBDiffError, match=sentence):
            read_problems(path)
