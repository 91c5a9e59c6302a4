"""The built wheel in a new virtual environment: commands and page, started in a folder outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from tests.free_ports import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("nbdiff_engine", "playground", "training")
COMMANDS = ("nbdiff", "nbdiff-playground", "nbdiff-train")
SOURCES = (*PACKAGES, "assets", "pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")


def source_files(folder: str) -> set[str]:
    """Every file below a folder of the checkout except caches, as a path relative to that folder."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / folder).as_posix() for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because the build folder of a checkout may contain files that were renamed later."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "source").mkdir()
    for name in SOURCES:
        source, target = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    pip("wheel", *offline, "--wheel-dir", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


class Installed:
    """A virtual environment with the wheel, and a folder without project files in which commands start."""

    def __init__(self, folder: Path, wheel: Path):
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        venv.create(folder / "venv", symlinks=True)
        self.bin = folder / "venv" / "bin"
        pip("--python", str(self.bin / "python"), "install", "--no-index", "--no-deps", "--quiet", str(wheel))
        self.packages = Path(self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # The dependencies come from the test environment. Python searches the folders that a .pth file names, but does
        # not read .pth files inside them, so an editable install of this project is not found.
        site_packages = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
        (self.packages / "dependencies.pth").write_text("".join(f"{each}\n" for each in site_packages))

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {**kept, "HF_HUB_OFFLINE": "1", "NBDIFF_HOME": str(self.folder / "home")}

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the environment and return its standard output."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def pip(*arguments: str) -> None:
    # With the checkout on PYTHONPATH, pip would see the project there and install nothing.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_contains_every_file_of_the_packages_and_of_assets(wheel: Path) -> None:
    expected = {f"{package}/{path}" for package in PACKAGES for path in source_files(package)}
    expected |= {f"nbdiff_engine/assets/{path}" for path in source_files("assets")}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_modules_assets_and_sandbox_come_from_the_wheel(installed: Installed) -> None:
    """A problem of the domain `code` starts the sandbox, which is a file of the package, by its path."""
    program = (
        "import json, nbdiff_engine.bundled_files as files, training, playground\n"
        "from nbdiff_engine.tasks import check, held_out\n"
        "paths = [files.__file__, str(files.ASSETS), training.__file__, playground.__file__]\n"
        "print(json.dumps([paths, check(problem := held_out('code', 1)[0], problem.answer).correct]))"
    )
    paths, correct = json.loads(installed.run("python", "-c", program))
    for path in paths:
        assert installed.packages in Path(path).parents
    assert correct


def test_models_are_listed(installed: Installed) -> None:
    assert {each["name"] for each in json.loads(installed.run("nbdiff", "models", "--json"))} == {
        "nano",
        "nano-ar",
        "smollm2",
        "smollm2-drafts",
    }


def test_a_prompt_is_answered(installed: Installed) -> None:
    answer = installed.run("nbdiff", "generate", "What is the capital of Peru?", "--strategy", "self_speculative")
    assert "Lima" in answer


def test_recipes_are_listed(installed: Installed) -> None:
    names = {each["name"] for each in json.loads(installed.run("nbdiff-train", "recipes", "--json"))}
    assert names == {path.removesuffix(".yaml") for path in source_files("training/recipe/bundled")}


def test_the_trainer_of_a_job_finds_the_package(installed: Installed) -> None:
    """Runner and trainer are processes in the job's folder. The trainer starts and refuses the data."""
    data = installed.folder / "data.jsonl"
    data.write_text('{"neither_text_nor_messages": 1}\n')
    program = (
        "import sys, time\n"
        "from training.jobs import Jobs, JobSpec, states\n"
        "jobs = Jobs()\n"
        "job = jobs.submit(JobSpec.of(recipe='smoke', data=sys.argv[1]))\n"
        "while jobs.get(job.id).state not in states.ENDED: time.sleep(0.2)\n"
        "print(jobs.log_tail(job.id))"
    )
    log = installed.run("python", "-c", program, str(data)).strip()
    assert log.splitlines()[-1].startswith("error: ")
    assert "neither_text_nor_messages" in log.splitlines()[-1]


@pytest.mark.parametrize("program", [["nbdiff-playground"], ["python", "-m", "playground"]])
def test_the_page_names_its_options(installed: Installed, program: list[str]) -> None:
    usage = installed.run(*program, "--help")
    assert usage.startswith(f"usage: {' '.join(program)} ")
    for command in COMMANDS:
        assert command in usage


def test_the_page_is_served(installed: Installed) -> None:
    port = free_port()
    log = installed.folder / "page.log"
    with log.open("w") as output:
        page = subprocess.Popen(
            [str(installed.bin / "nbdiff-playground"), "--port", str(port)],
            cwd=installed.folder,
            env=installed.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without the proxy of the machine
    try:
        end = time.monotonic() + 100
        while "is on http" not in log.read_text():
            assert page.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        with direct.open(f"http://127.0.0.1:{port}/", timeout=30) as reply:
            assert "NBDiff playground" in reply.read().decode()
        with direct.open(f"http://127.0.0.1:{port}/config", timeout=30) as reply:
            components = json.loads(reply.read())["components"]
        (stage,) = [each["props"] for each in components if each["props"].get("elem_id") == "stage"]
        assert stage["html_template"] == (ROOT / "assets" / "web" / "stage.html").read_text(encoding="utf-8")
    finally:
        page.terminate()
        page.wait(timeout=30)
