"""The tasks: which answers the checkers accept, and what the sandbox prevents."""

import json

import pytest

from nbdiff_engine.errors import SettingError
from nbdiff_engine.tasks import DOMAINS, Problem, check, checkers, held_out, sandbox

ADD = Problem(
    "code",
    "Write a Python function add(a, b) that returns a plus b.",
    "def add(a, b):\n    return a + b",
    {"name": "add", "examples": [[[1, 2], 3], [[-1, 1], 0], [[0, 0], 0], [[10, 5], 15]]},
)
SUM = Problem("math", "What is 12 + 5?", "12 + 5 = 17. The answer is 17.", {"result": 17})
PERU = Problem(
    "knowledge",
    "What is the capital of Peru?",
    "The capital of Peru is Lima.",
    {"answer": "Lima", "others": ["Quito", "Rome", "Buenos Aires"]},
)
KITE = Problem(
    "story",
    "Tell me a story about Mia, a fox and a red kite.",
    "Mia had a red kite. It flew away. A fox brought it back.",
    {"must": ["Mia", "fox", "red kite"]},
)


def code(body: str, argument: str = "x") -> str:
    return f"def f({argument}):\n    {body}"


def outcome(body: str, *arguments) -> sandbox.CallOutcome:
    return sandbox.run(code(body), "f", [list(arguments) or [0]])[0]


def unlisted(program: str, call=0) -> sandbox.CallOutcome:
    """The outcome of a program that skips the allowlist, to test the limits of the process."""
    return sandbox.run_unlisted(program, "f", [[call]])[0]


# the os module, reached in a way that the allowlist forbids, to test the limits of the process
OS = "O = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__\n"


@pytest.mark.parametrize("problem", [SUM, ADD, PERU, KITE], ids=lambda problem: problem.domain)
def test_a_reference_answer_is_right(problem):
    assert check(problem, problem.answer).correct is True


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("The answer is 17.", True),
        ("The answer is 17.0, I think of 3.", True),
        ("First 12 + 5 = 17", True),
        ("The answer is 16. The answer is 17.", True),
        ("The answer is 18. Not 17.", False),
        ("The answer is -17.", False),
        ("The answer is 17,000.", False),
        ("I do not know.", False),
        ("", False),
    ],
)
def test_math_takes_the_last_number_after_the_words_answer_is(text, correct):
    assert check(SUM, text).correct is correct


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("lima it is", True),
        ("The capital of Peru is Limassol.", False),
        ("The capital of Peru is Quito.", False),
        ("It is Lima or Quito.", False),
        ("It is Lima, not buenos aires.", False),
        ("The capital of Peru", False),
    ],
)
def test_knowledge_needs_the_answer_as_whole_words_and_no_other_value_of_its_kind(text, correct):
    assert check(PERU, text).correct is correct


def test_a_value_in_the_question_is_not_a_wrong_answer():
    question = Problem("knowledge", "Is Lima or Rome in Peru?", "", PERU.facts)
    assert check(question, "Rome is not, Lima is.").correct


def test_symbols_of_elements_are_compared_with_their_case():
    helium = Problem("knowledge", "Which symbol stands for helium?", "", {"answer": "He", "others": ["H", "I", "C"]})
    assert check(helium, "The symbol is He.").correct
    assert not check(helium, "he said so").correct
    assert check(helium, "i see a c, but it is He").correct


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Mia had a red kite. It flew. The end.", "'fox'"),
        ("Mia had a red box. A kite flew. A fox saw it.", "'red kite'"),
        ("Mia and a fox had a red kite. It flew.", "2 sentences"),
        ("Mia had a red kite. It flew. A fox came. And then", "does not end"),
        ("Mia had a red kite. It flew. Foxes came.", "'fox'"),
    ],
)
def test_a_story_needs_all_its_words_and_three_complete_sentences(text, why):
    verdict = check(KITE, text)
    assert verdict.correct is False
    assert why in verdict.why


def test_code_is_not_run_if_the_caller_forbids_it(monkeypatch):
    monkeypatch.setattr(sandbox, "run", lambda *_: pytest.fail("code was run"))
    verdict = check(ADD, ADD.answer, run_code=False)
    assert verdict.correct is None
    assert "not run" in verdict.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def add(a, b):\n    return a - b", "wrong for 1, 2: gave -1, expected 3."),
        ("def add(a, b):\n    return float(a + b)", "wrong for 1, 2: gave 3.0, expected 3."),
        ("def add(a, b):\n    return a // 0", "wrong for 1, 2: raised ZeroDivisionError, expected 3."),
        ("def add(a, b):\n    return (a, b)", "wrong for 1, 2: returned a tuple, expected 3."),
        ("def add(a, b):\n    pass", "wrong for 1, 2: gave None, expected 3."),
        ("def plus(a, b):\n    return a + b", "The code defines no function add."),
        ("import os\ndef add(a, b):\n    return a + b", "refused: uses Import."),
        ("def add(a, b):\n    return a +", "refused: is not valid Python (invalid syntax)."),
    ],
)
def test_the_verdict_on_a_wrong_function_has_the_reason(text, why):
    verdict = check(ADD, f"Here it is:\n```python\n{text}\n```")
    assert verdict.correct is False
    assert verdict.why == why


def test_the_verdict_on_a_function_that_does_not_end_is_a_timeout(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 2)
    verdict = check(ADD, "Here it is:\n```python\ndef add(a, b):\n    while True:\n        pass\n```")
    assert verdict.correct is False
    assert verdict.why == "The code timed out after 2 s."


def test_code_is_found_in_a_fence_and_after_words():
    assert checkers.code_of("Sure:\n```python\ndef f():\n    pass\n```\nDone.") == "def f():\n    pass\n"
    assert checkers.code_of("Sure:\ndef f():\n    pass") == "def f():\n    pass"
    assert checkers.code_of("nothing") == "nothing"


def test_true_and_one_differ_also_inside_lists_and_dicts():
    assert not checkers.same(True, 1)
    assert not checkers.same([[1]], [[True]])
    assert not checkers.same({"a": 1.0}, {"a": 1})
    assert not checkers.same([1], [1, 1])
    assert checkers.same({"a": [1, "b"]}, {"a": [1, "b"]})


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("import os", "Import"),
        ("from os import system", "ImportFrom"),
        ("class A:\n    pass", "ClassDef"),
        (code("return open('/etc/passwd')"), "open"),
        (code("return eval('1')"), "eval"),
        (code("return exec('1')"), "exec"),
        (code("return getattr(x, 'a')"), "getattr"),
        (code("return __import__('os')"), "__import__"),
        (code("return ().__class__.__base__"), ".__base__"),
        (code("return [].__class__"), ".__class__"),
        (code("return (i for i in x).gi_frame"), ".gi_frame"),
        (code("return f.func_globals"), ".func_globals"),
        (code("return type(x)"), "type"),
        (code("return '{0.__class__}'.format(x)"), ".format"),
        (code("return '{a}'.format_map(x)"), ".format_map"),
        (code("return f'{x:>999999999}'"), "a format specification"),
        (code("return f'{x.__class__}'"), ".__class__"),
        (code("return 1 << 99999999999"), "LShift"),
        (code("global y"), "Global"),
        (code("return (y := x)"), "NamedExpr"),
        (code("print(x)"), "print"),
        (code("raise SystemExit"), "Raise"),
        (code("try:\n        return 1\n    except:\n        return 2"), "Try"),
        (code("return exit()"), "exit"),
        (code("return sys.exit()"), ".exit"),
        (code("yield x"), "Yield"),
        ("@f\ndef g():\n    pass", "a decorator"),
        ("async def f():\n    pass", "AsyncFunctionDef"),
        ("def f(__builtins__):\n    return 1", "__builtins__"),
        ("def f(x):\n    x.append = 1", "an assignment to .append"),
        ("__name__ = 1", "__name__"),
        ("match 1:\n    case 1:\n        pass", "Match"),
    ],
)
def test_forbidden_code_is_refused_before_a_process_starts(program, what, monkeypatch):
    monkeypatch.setattr(sandbox, "_report", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(sandbox.SandboxError) as caught:
        sandbox.run(program, "f", [[1]])
    assert str(caught.value) == f"refused: uses {what}"


@pytest.mark.parametrize("program", ["x" * 5_000, "(" * 3_000, "-" * 3_999 + "1", "def f(:", "\0", "not " * 999 + "1"])
def test_invalid_code_raises_a_sandbox_error(program):
    with pytest.raises(sandbox.SandboxError):
        sandbox.run(program, "f", [[1]])


def test_all_calls_of_a_function_run_in_one_process():
    outcomes = sandbox.run(code("return sorted([y * 2 for y in x if y > 1], reverse=True)"), "f", [[[1, 2, 3]], [[]]])
    assert outcomes == [sandbox.CallOutcome([6, 4]), sandbox.CallOutcome([])]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return f(x)", "raised RecursionError"),
        ("return [0] * 10**9", "raised MemoryError"),
        ("return 'a' * 10**9", "raised MemoryError"),
        ("return 10**5000", None),
        ("return {x}", "returned a set"),
        ("return [[f]]", "returned a function"),
        ("return {1: 2}", "returned a dict with keys that are not strings"),
        ("return [] + 1", "raised TypeError"),
        ("x = [x]\n    x.append(x)\n    return x", "raised RecursionError"),
    ],
)
def test_the_outcome_of_a_failed_call_names_the_problem(body, problem):
    if problem is None:  # Python refuses to convert an integer of this length to text
        with pytest.raises(sandbox.SandboxError, match="cannot be written as JSON"):
            outcome(body)
    else:
        assert outcome(body) == sandbox.CallOutcome(problem=problem)


@pytest.mark.parametrize("body", ["while True:\n        pass", "return sum(range(10**12))", "return 9**9**9"])
def test_code_that_runs_too_long_is_stopped(body, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 2)
    with pytest.raises(sandbox.SandboxError, match="timed out after 2 s"):
        outcome(body)


def test_a_result_that_is_too_large_is_an_error():
    with pytest.raises(sandbox.SandboxError, match="returned too much"):
        outcome("return 'a' * 10**6")


def test_without_the_allowlist_the_process_has_no_environment_and_an_empty_folder(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    look = OS + "def f(x):\n    return [[k for k in O['environ'] if k != 'LC_CTYPE'], O['listdir']('.')]"
    assert unlisted(look).value == [[], []]


def test_without_the_allowlist_no_file_can_be_written(tmp_path):
    target = tmp_path / "note"
    write = OS + "def f(path):\n    d = O['open'](path, O['O_CREAT'] | O['O_WRONLY'])\n    return O['write'](d, b'x')"
    assert unlisted(write, str(target)).problem == "raised OSError"
    assert not target.exists() or target.read_bytes() == b""


def test_without_the_allowlist_fake_results_on_standard_output_are_discarded():
    fake = json.dumps({"calls": [{"value": 42}]})
    assert unlisted(OS + f"def f(x):\n    O['write'](1, {fake!r}.encode())\n    return 7").value == 7


def test_without_the_allowlist_an_early_exit_gives_no_result():
    with pytest.raises(sandbox.SandboxError, match="ended before it gave a result"):
        unlisted(OS + "def f(x):\n    O['_exit'](0)")


def test_without_the_allowlist_system_exit_is_an_outcome():
    assert unlisted(OS + "def f(x):\n    O['sys'].exit(0)").problem == "raised SystemExit"


def test_without_the_allowlist_a_custom_class_is_not_returned():
    custom = "A = [].__class__.__class__('A', (int,), {'__eq__': lambda a, b: True})\ndef f(x):\n    return A(1)"
    assert unlisted(custom).problem == "returned a A"


def test_without_the_allowlist_endless_output_is_cut():
    program = OS + "def f(x):\n    while True:\n        for d in range(3, 9):\n            try:\n"
    program += "                O['write'](d, b'x' * 60000)\n            except BaseException:\n                pass"
    with pytest.raises(sandbox.SandboxError, match="ended before it gave a result"):
        unlisted(program)


@pytest.mark.parametrize(
    "report", ["[]", "{}", '{"calls": 1}', '{"calls": []}', '{"calls": [1]}', "[" * 9_000, "", "\xff"]
)
def test_an_invalid_report_gives_no_result(report, monkeypatch):
    monkeypatch.setattr(sandbox, "_read", lambda *_: (report.encode("latin-1"), False))
    with pytest.raises(sandbox.SandboxError, match="ended before it gave a result"):
        outcome("return 1")


def test_without_resource_limits_no_code_runs_and_nothing_is_judged(monkeypatch):
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda name: None)
    verdict = check(ADD, ADD.answer)
    assert verdict.correct is None
    assert "no resource limits" in verdict.why


def test_each_domain_has_a_hundred_held_out_problems_and_no_prompt_repeats():
    problems = held_out()
    assert len({problem.prompt for problem in problems}) == len(problems) == 400
    assert [len(held_out(domain)) for domain in DOMAINS] == [100] * 4
    assert held_out("code", 3) == held_out("code")[:3]
    assert [problem.domain for problem in held_out(limit=1)] == list(DOMAINS)


@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if domain != "code"])
def test_the_reference_answer_of_every_held_out_problem_is_right(domain):
    assert all(check(problem, problem.answer).correct for problem in held_out(domain))


def test_the_reference_code_of_held_out_problems_passes_in_the_sandbox():
    assert all(sandbox.refusal(problem.answer) is None for problem in held_out("code"))
    assert all(check(problem, problem.answer).correct for problem in held_out("code", 15))


def test_an_unknown_domain_and_a_limit_below_one_raise_an_error():
    with pytest.raises(SettingError, match="no tasks of domain 'poems'"):
        held_out("poems")
    with pytest.raises(SettingError, match="at least 1"):
        held_out("math", 0)
    with pytest.raises(SettingError, match="no tasks of domain 'poems'"):
        check(Problem("poems", "", ""), "")
