"""The benchmark of a GPU, tried on the CPU with tiny models: every part runs, and without a GPU it is refused."""

import json
import sys

import pytest
import torch

from benchmarks import gpu
from nbdiff_engine.errors import SettingError


def run_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    gpu.main()


def test_without_a_gpu_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="needs a CUDA GPU, and torch finds none"):
        run_with(monkeypatch)


def test_every_part_runs_with_tiny_models(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path))
    run_with(monkeypatch, "--small")
    *lines, last = capsys.readouterr().out.splitlines()
    assert "CUDA graphs: left out" in "\n".join(lines)
    figures = json.loads(last)
    assert list(figures["models"]) == ["smollm2", "random 7B"]
    for own in figures["models"].values():
        assert [(each["strategy"].split(",")[0], each["batch"]) for each in own["decoding"]] == [
            (name, batch) for batch in (1, 16) for name in ("AR", "self-speculation", "self-speculation")
        ]
        assert all(each["tokens_per_second"] > 0 and each["milliseconds"] > 0 for each in own["decoding"])
        reached = [each["reached"] for each in own["decoding"] if each["strategy"] == "AR"]
        assert all(0 < each < 1 for each in reached)
        assert [each["tokens"] for each in own["widths"]] == [*gpu.WIDTHS] * 2
        assert own["steps"]["adaptation, LoRA"] > 0
        assert own["steps"]["draft adapter"] > 0


def test_a_section_that_would_begin_too_late_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "LAST_START", -1)
    run_with(monkeypatch, "--small")
    text = capsys.readouterr().out
    assert text.count("left out, the time is over") == 2
    assert json.loads(text.splitlines()[-1])["models"] == {}
