"""Rules for the code: one direction of imports, cheap imports, short files, tests that mirror the packages.

CONTRIBUTING.md explains the same rules.
"""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("nbdiff_engine", "training", "playground")

# Forbidden imports of every file in a package, also inside functions.
FORBIDDEN = {
    "nbdiff_engine": {"training", "playground", "benchmarks", "app", "gradio", "plotly"},
    "training": {"playground", "benchmarks", "app", "gradio", "plotly"},
    "playground": {"benchmarks", "app", "torch", "transformers"},
    "benchmarks": {"playground", "app", "gradio"},
    "app.py": {"nbdiff_engine", "training", "benchmarks", "torch", "transformers", "gradio"},
}
# Packages whose __init__ may import, because it re-exports public names.
RE_EXPORTING = {"nbdiff_engine", "nbdiff_engine/tasks", "training", "training/jobs", "playground"}
MAX_LINES = 400
LONG_MODULE = 100  # a longer module has its own test file

# Long modules that are tested in a file of another name.
TESTED_BY = {
    "nbdiff_engine/__main__.py": "tests/engine/test_command_line.py",
    "nbdiff_engine/decoding/loop.py": "tests/engine/decoding/test_decoding.py",
    "nbdiff_engine/evaluation/table.py": "tests/engine/evaluation/test_run.py",
    "nbdiff_engine/serving/request_fields.py": "tests/engine/serving/test_refusals.py",
    "nbdiff_engine/serving/asking.py": "tests/engine/serving/test_clients.py",
    "nbdiff_engine/serving/replies.py": "tests/engine/serving/test_app.py",
    "nbdiff_engine/serving/serve_command.py": "tests/engine/serving/test_refusals.py",
    "nbdiff_engine/tasks/checkers.py": "tests/engine/tasks/test_tasks.py",
    "nbdiff_engine/tasks/sandbox.py": "tests/engine/tasks/test_tasks.py",
    "nbdiff_engine/trace/events.py": "tests/engine/trace/test_trace_file.py",
    "playground/api.py": "tests/playground/test_app.py",
    "playground/command_line.py": "tests/playground/test_app.py",
    "playground/model_cards.py": "tests/playground/server/test_found_models.py",
    "playground/models.py": "tests/playground/test_page_tools.py",
    "playground/race/opening_choice.py": "tests/playground/race/test_openings.py",
    "playground/options.py": "tests/playground/test_app.py",
    "playground/race/decode_tab.py": "tests/playground/test_page.py",
    "playground/race/lanes.py": "tests/playground/race/test_openings.py",
    "playground/sweep/block_sizes_tab.py": "tests/playground/test_page_tools.py",
    "playground/sweep/sweep_figures.py": "tests/playground/sweep/test_sweep.py",
    "playground/sweep/sweep_rows.py": "tests/playground/sweep/test_sweep.py",
    "playground/sweep/sweep_table.py": "tests/playground/sweep/test_sweep.py",
    "playground/training_tab/checkpoint_opener.py": "tests/playground/training_tab/test_training_tab.py",
    "playground/training_tab/compare.py": "tests/playground/training_tab/test_training_tab.py",
    "playground/training_tab/estimates.py": "tests/playground/training_tab/test_training_tab.py",
    "playground/training_tab/fields.py": "tests/playground/training_tab/test_training_tab.py",
    "playground/training_tab/form.py": "tests/playground/training_tab/test_training_tab.py",
    "playground/training_tab/tab.py": "tests/playground/training_tab/test_training_page.py",
    "playground/training_tab/watch.py": "tests/playground/training_tab/test_training_tab.py",
    "training/__main__.py": "tests/training/test_command_line.py",
    "training/corpus/chat_topics.py": "tests/training/corpus/test_chat_prompts.py",
    "training/corpus/code.py": "tests/training/corpus/test_corpus.py",
    "training/corpus/code_pieces.py": "tests/training/corpus/test_corpus.py",
    "training/corpus/facts.py": "tests/training/corpus/test_corpus.py",
    "training/corpus/math.py": "tests/training/corpus/test_corpus.py",
    "training/corpus/questions.py": "tests/training/corpus/test_corpus.py",
    "training/corpus/scenes.py": "tests/training/corpus/test_corpus.py",
    "training/data/conversations.py": "tests/training/data/test_dataset.py",
    "training/data/encoder.py": "tests/training/data/test_formats.py",
    "training/data/plain_files.py": "tests/training/data/test_sources.py",
    "training/data/self_author.py": "tests/training/data/test_self_generated.py",
    "training/jobs/failures.py": "tests/training/jobs/test_lifecycle.py",
    "training/jobs/processes.py": "tests/training/jobs/test_lifecycle.py",
    "training/jobs/queue.py": "tests/training/jobs/test_lifecycle.py",
    "training/jobs/runner.py": "tests/training/jobs/test_kills.py",
    "training/jobs/supervisor.py": "tests/training/jobs/test_lifecycle.py",
    "training/planning/planning_commands.py": "tests/training/test_command_line.py",
    "training/run/end_file.py": "tests/training/run/test_ending.py",
    "training/run/launch.py": "tests/training/run/test_trainer.py",
    "training/sharing/export_command.py": "tests/training/sharing/test_exports.py",
    "training/sharing/export_card.py": "tests/training/sharing/test_exports.py",
    "training/sharing/stock_check.py": "tests/training/sharing/test_exports.py",
    "training/sharing/writing.py": "tests/training/sharing/test_exports.py",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


SOURCES = [*python_files(*PACKAGES, "benchmarks"), ROOT / "app.py"]
TESTS = python_files("tests")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in python_files(*PACKAGES)}


@cache
def imports(path: Path) -> list[tuple[str, str | None]]:
    """(module, name) of every import in a file, also in functions and under TYPE_CHECKING; no name for `import m`."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import; write the full name of the package"
            found += [(node.module, alias.name) for alias in node.names]
    return found


def top_level(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(path)}


def imported_modules(path: Path) -> set[str]:
    """Modules of PACKAGES that a file imports; `from a.b import c` gives a.b.c if that is a module, else a.b."""
    found = (module if f"{module}.{name}" not in MODULES else f"{module}.{name}" for module, name in imports(path))
    return {module for module in found if module in MODULES}


def subpackage(module: str) -> str:
    """The first two parts of a module's name: a folder of a package, or a file directly in the package."""
    return ".".join(module.split(".")[:2])


def assert_no_cycle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"an import cycle: {' <- '.join(error.args[1])}")


# -- imports ----------------------------------------------------------------------------------------------


def test_no_file_has_a_forbidden_import() -> None:
    found = {relative(path): top_level(path) & FORBIDDEN[relative(path).split("/")[0]] for path in SOURCES}
    assert not {path: modules for path, modules in found.items() if modules}


def test_files_have_no_import_cycle() -> None:
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph)  # the parser found the imports
    assert_no_cycle(graph)


def test_subpackages_have_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        graph.setdefault(subpackage(name), set()).update(
            {subpackage(each) for each in imported_modules(path)} - {subpackage(name)}
        )
    assert len(graph) > 20
    assert_no_cycle(graph)


def test_an_import_cycle_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="an import cycle"):
        assert_no_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_no_private_name_is_imported() -> None:
    """`from module import _name`, and `module._name` of a module of this project."""

    def private(name: str | None) -> bool:
        return name is not None and name.startswith("_") and not name.startswith("__")

    found = [(relative(path), name) for path in (*SOURCES, *TESTS) for _, name in imports(path) if private(name)]
    for path in SOURCES:
        modules = {name for module, name in imports(path) if f"{module}.{name}" in MODULES}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                found += [(relative(path), node.attr)] if private(node.attr) else []
    assert not found


def test_only_the_adapter_imports_the_evaluation_harness() -> None:
    adapter = ROOT / "nbdiff_engine" / "lm_eval_adapter"
    assert any("lm_eval" in top_level(path) for path in SOURCES if adapter in path.parents)
    for path in SOURCES:
        assert adapter in path.parents or "lm_eval" not in top_level(path)


def test_only_the_modules_of_ray_import_ray_and_only_inside_functions() -> None:
    own = {"nbdiff_engine/ray_cluster.py", "nbdiff_engine/serving/on_ray.py"}
    found = {relative(path) for path in SOURCES if "ray" in top_level(path)}
    assert own <= found
    assert not [name for name in found - own if not name.startswith("training/on_ray/")]
    for name in found:
        body = [node for node in tree(ROOT / name).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node for node in body if ast.unparse(node).split()[1].split(".")[0] == "ray"]


# -- cost of an import ------------------------------------------------------------------------------------


def loaded_by(module: str) -> set[str]:
    """Top-level names of all modules in a fresh process after it imports `module`."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_engine_loads_no_page_and_no_optional_package() -> None:
    loaded = loaded_by("nbdiff_engine")
    assert "nbdiff_engine" in loaded
    assert not loaded & {
        "gradio",
        "plotly",
        "bitsandbytes",
        "peft",
        "datasets",
        "lm_eval",
        "playground",
        "training",
        "fastapi",
    }


@pytest.mark.parametrize("module", ["training.jobs.runner", "training.on_ray.job_client"])
def test_the_runner_of_a_job_loads_no_large_package(module: str) -> None:
    """The runner keeps its memory until its trainer ends, and so does the follower of a Ray job."""
    loaded = loaded_by(module)
    assert "training" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "datasets",
        "gradio",
        "accelerate",
        "peft",
        "numpy",
        "pydantic",
        "ray",
    }


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=relative)
def test_a_package_has_a_short_docstring_and_imports_nothing(folder: Path) -> None:
    init = tree(folder / "__init__.py")
    prose = (ast.get_docstring(init) or "").split(">>>")[0].strip()  # an example may follow
    assert 1 <= len(prose.splitlines()) <= 3
    if relative(folder) not in RE_EXPORTING:
        assert len(init.body) == 1


# -- files ------------------------------------------------------------------------------------------------


def test_files_stay_short() -> None:
    assert not [relative(path) for path in (*SOURCES, *TESTS) if lines(path) > MAX_LINES]


def test_app_is_only_an_entry_point() -> None:
    assert lines(ROOT / "app.py") < 80


def test_no_code_unpickles_or_starts_a_shell() -> None:
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "pickle.load", "pickle.loads", "os.system", "eval"}
                assert not any(each.arg == "shell" for each in node.keywords)
                assert not any(
                    each.arg == "trust_remote_code" and ast.unparse(each.value) != "False" for each in node.keywords
                )


def test_no_file_contains_a_path_of_one_machine() -> None:
    machine_path = re.compile(r"(?<![\w.-])/(?:work|home|root|mnt|Users)/\w")
    texts = {".py", ".md", ".toml", ".txt", ".yaml", ".js", ".css", ".html", ".json", ".jsonl"}
    folders = (*PACKAGES, "assets", "benchmarks", "docs", "tests")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix in texts]
    found += [path for path in ROOT.iterdir() if path.is_file() and (path.suffix in texts or path.name == "Makefile")]
    assert len(found) > len(SOURCES)
    for path in found:
        assert not machine_path.search(path.read_text(encoding="utf-8")), relative(path)


# -- tests ------------------------------------------------------------------------------------------------


def folder_of_tests(folder: str) -> str:
    """The test folder of a package's folder: tests/engine/model for nbdiff_engine/model."""
    return f"tests/{folder.replace('nbdiff_engine', 'engine')}"


def test_tests_mirror_the_package_folders() -> None:
    known = {folder_of_tests(relative(path.parent)) for path in MODULES.values()} | {"tests", "tests/benchmarks"}
    assert {relative(path.parent) for path in TESTS if path.name.startswith("test_")} <= known


def test_a_long_module_has_a_test_file() -> None:
    for path in MODULES.values():
        own = f"{folder_of_tests(relative(path.parent))}/test_{path.name}"
        assert lines(path) <= LONG_MODULE or (ROOT / TESTED_BY.get(relative(path), own)).is_file(), relative(path)


def test_the_table_of_other_test_files_has_no_needless_entry() -> None:
    for module in TESTED_BY:
        path = ROOT / module
        assert path.is_file()
        assert not (ROOT / folder_of_tests(relative(path.parent)) / f"test_{path.name}").exists()


# -- the map ----------------------------------------------------------------------------------------------


def mapped() -> set[str]:
    """The files that docs/code-map.md names. An indented line starts with files of the folder named above it."""
    found, folder = set(), ""
    for line in (ROOT / "docs" / "code-map.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"[\w./]+/( |$)", line):
            folder = line.split()[0]
        elif line.startswith("  "):
            names = re.match(r"  ((?:[\w/]+(?:\.\w+)?, )*[\w/]+(?:\.\w+)?) ", line)[1]
            found |= {folder + name for name in names.split(", ")}
    return found


def test_the_code_map_names_every_module_and_only_existing_files() -> None:
    modules = {relative(path) for path in MODULES.values() if path.name != "__init__.py"}
    assert modules - mapped() == set()
    assert [name for name in mapped() if not (ROOT / name).exists()] == []
