"""The command `python -m training jobs`."""

import json

import pytest

from tests.training.jobs.conftest import PATIENCE, in_state, spec, stepping
from training.jobs import Jobs


def test_a_job_from_the_command_line(run, home, tmp_path):
    code, out, _ = run("jobs", "submit", "--recipe", "smoke", "--max-steps", 4, "--name", "mine", "--set", "seed=5")
    assert code == 0
    id = out.strip()
    assert run("jobs", "wait", id, "--timeout", PATIENCE)[0] == 0
    (found,) = json.loads(run("jobs", "list", "--json")[1])
    assert (found["id"], found["name"], found["state"], found["step"], found["max_steps"]) == (
        *(id, "mine", "finished"),
        *(4, 4),
    )
    assert json.loads(run("jobs", "show", id[:4], "--json")[1]) == found
    shown = run("jobs", "show", id)[1]
    assert "running" in shown
    assert "mine" in run("jobs", "list")[1]
    assert "# started" in run("jobs", "logs", id, "--follow")[1]
    assert run("jobs", "delete", id)[0] == 0
    assert run("jobs", "list", "--json")[1] == "[]\n"


def test_stop_resume_save_and_move(run, home):
    recipe = home.parent / "mine.yaml"
    recipe.write_text("base: nano-ar\ndata: {source: corpus}\noptimisation: {max_steps: 1_000_000}\n")
    first, second, third = (run("jobs", "submit", "--recipe", recipe)[1].strip() for _ in range(3))
    jobs = Jobs()
    job = stepping(jobs, jobs.get(first))
    assert run("jobs", "save", first)[0] == 0
    assert "(1 in the queue)" in run("jobs", "move", third, 1)[1]
    assert run("jobs", "wait", second, "--timeout", 0)[0] == 124
    for id in (third, second, first):
        assert run("jobs", "stop", id)[0] == 0
    assert run("jobs", "wait", first)[0] == 1
    assert in_state(jobs, job, "stopped").step >= 1
    assert "starting" in run("jobs", "resume", first)[1]
    jobs.stop(first)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["submit"], "Give a --recipe"),
        (["submit", "--recipe", "nosuch"], "no recipe 'nosuch'"),
        (["submit", "--recipe", "smoke", "--set", "nonsense"], "is not key=value"),
        (["submit", "--recipe", "smoke", "--set", "seed=x"], "seed is 'x'"),
        (["submit", "--recipe", "smoke", "--kind", "train"], "kind is 'train'"),
        (["show", "zz"], "There is no job 'zz'"),
        (["stop", "../x"], "There is no job '../x'"),
        (["logs", ""], "There is no job ''"),
        (["move", "zz", "first"], "Invalid value"),
        (["nosuch"], "No such command"),
    ],
    ids=str,
)
def test_bad_input_gives_one_sentence_and_exit_code_2(run, home, arguments, sentence):
    code, out, errors = run("jobs", *arguments)
    assert (code, out) == (2, "")
    assert sentence in errors
    assert errors.count("error: ") == 1
    assert not home.exists()


def test_a_prefix_of_two_jobs_is_refused(run, home, monkeypatch):
    ids = iter(["aaaa0001", "aaaa0002"])
    monkeypatch.setattr("training.jobs.queue.secrets.token_hex", lambda size: next(ids))
    jobs = Jobs(home)
    monkeypatch.setattr("training.jobs.supervisor.Supervisor._start_next", lambda self, ledger: None)
    for _ in range(2):
        jobs.submit(spec(1))
    code, _, errors = run("jobs", "stop", "aaaa")
    assert code == 2
    assert "2 jobs begin with 'aaaa'" in errors
    assert run("jobs", "stop", "aaaa0001")[0] == 0
