"""The output of benchmarks/likelihood.py, and how its figures are summed."""

import json
import math
import sys

import pytest

import nbdiff_engine as nb
from benchmarks import likelihood
from nbdiff_engine.tasks import held_out


def test_the_last_line_is_json_and_the_saved_file_equals_the_output(monkeypatch, capsys, tmp_path):
    saved = tmp_path / "table.txt"
    arguments = ["likelihood.py", "--limit", "1", "--samples", "3", "--block-size", "1", "4", "--save", str(saved)]
    monkeypatch.setattr(sys, "argv", arguments)
    likelihood.main()
    printed = capsys.readouterr().out
    assert saved.read_text() == printed
    rows = json.loads(printed.splitlines()[-1])["rows"]
    assert {row["model"] for row in rows} == {"nano-ar", "nano"}
    ar, one, four = (
        next(row for row in rows if (row["model"], row["block_size"], row["domain"]) == ("nano", size, "all"))
        for size in (None, 1, 4)
    )
    assert one["nats"] == pytest.approx(ar["nats"], abs=1e-3)
    assert four["nats"] > ar["nats"]
    assert four["nats_error"] > one["nats_error"] == ar["nats_error"] == 0
    for row in rows:
        assert row["perplexity"] == pytest.approx(math.exp(row["nats"] / row["tokens"]))
        assert row["bits_per_byte"] == pytest.approx(row["nats"] / math.log(2) / row["bytes"])


def test_all_is_the_sum_of_the_domains_and_each_answer_ends_with_its_eos():
    model = nb.load("nano", dtype="float32")
    problems = [problem for domain in ("math", "story") for problem in held_out(domain, 2)]
    assert all(ids[-1] in model.eos_token_ids for _, ids in likelihood.answers(model, problems))
    rows = {row.domain: row for row in likelihood.measure(model, problems, (), samples=1, seed=0)}
    for name in ("tokens", "bytes", "nats"):
        total = getattr(rows["all"], name)
        assert total == pytest.approx(sum(getattr(rows[domain], name) for domain in ("math", "story")))
