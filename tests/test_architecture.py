"""The house rules: imports point one way, importing the engine stays light, files stay readable."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE = {
    "nbdiff_engine": {"training", "playground", "benchmarks", "app", "gradio", "plotly"},
    "training": {"playground", "benchmarks", "app", "gradio"},
    "playground": {"benchmarks", "app", "torch", "transformers"},
    "benchmarks": {"playground", "app", "gradio"},
    "app.py": {"nbdiff_engine", "training", "benchmarks", "torch", "transformers", "gradio"},
}
SOURCES = [path for package in ABOVE if package != "app.py" for path in sorted((ROOT / package).rglob("*.py"))] + [
    ROOT / "app.py"
]


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_never_point_up(path):
    package = relative(path).split("/")[0]
    assert not imported(path) & ABOVE[package]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


def test_app_is_only_an_entry():
    assert len((ROOT / "app.py").read_text().splitlines()) < 100


def test_importing_the_engine_pulls_in_no_page_and_no_quantiser():
    program = "import json, sys, nbdiff_engine; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "nbdiff_engine" in loaded
    assert not loaded & {"gradio", "plotly", "bitsandbytes", "peft", "lm_eval", "playground", "training"}


def test_nothing_is_unpickled_and_nothing_goes_through_a_shell():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "pickle.load", "pickle.loads", "os.system", "eval"}
                assert not any(each.arg == "shell" for each in node.keywords)
                assert not any(
                    each.arg == "trust_remote_code" and ast.unparse(each.value) != "False" for each in node.keywords
                )


def test_only_the_adapter_imports_the_evaluation_harness():
    adapter = ROOT / "nbdiff_engine" / "lm_eval_adapter"
    assert any("lm_eval" in imported(path) for path in SOURCES if adapter in path.parents)
    for path in SOURCES:
        assert adapter in path.parents or "lm_eval" not in imported(path)
