"""Commands in processes that are forked from one that has imported torch and the project.

A new Python process needs several CPU-seconds for these imports, a forked one none. What must be a new process, such as
the start of a command or of torchrun, is tested with `subprocess`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.free_ports import free_port

ROOT = Path(__file__).parents[1]

PRELOADED = ["nbdiff_engine.__main__", "training.__main__", "training.run.launch", "playground.page"]

_CONTEXT = multiprocessing.get_context("forkserver")
_started = False


def run_module(
    module: str, *arguments: str, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, in a process of its own. Its standard input is empty."""
    return run_modules(module, arguments, [environment], timeout)


def run_ranks(
    module: str, *arguments: str, processes: int, timeout: float = 550, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node processes -m module arguments`. The output is that of all processes."""
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        {**world, **address, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)
    ]
    return run_modules(module, arguments, ranks, timeout)


def run_modules(
    module: str, arguments: Sequence[str], environments: Sequence[dict[str, str]], timeout: float
) -> subprocess.CompletedProcess[str]:
    """One process for each environment. After a failure the others are killed; the return code is the first that is
    not zero."""
    output = Path(os.environ["NBDIFF_HOME"]) / f"forked-{time.monotonic_ns()}"
    files = output.with_suffix(".out"), output.with_suffix(".err")
    running = [start(module, arguments, *files, environment) for environment in environments]
    _wait(running, timeout, f"{module} {' '.join(arguments)}")
    code = next((each.exitcode for each in running if each.exitcode), 0)
    out, err = (path.read_text(encoding="utf-8") for path in files)
    return subprocess.CompletedProcess([module, *arguments], code, out, err)


def start(module: str, arguments: Sequence[str], out: Path, err: Path, environment: dict[str, str]) -> BaseProcess:
    """A process that runs the module. out, err: the files of its standard output and standard error; may be one."""
    _start_server()
    own = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    process = _CONTEXT.Process(target=_run, args=(module, list(arguments), own, [str(out), str(err)]))
    process.start()
    return process


def run_function(function: Callable[..., None], processes: int, *arguments: Any, timeout: float = 300) -> None:
    """Call function(number, *arguments) in this many processes at once. All of them must end without an error."""
    _start_server()
    running = [_CONTEXT.Process(target=function, args=(number, *arguments)) for number in range(processes)]
    for each in running:
        each.start()
    _wait(running, timeout, function.__name__)
    assert [each.exitcode for each in running] == [0] * processes


def _wait(running: Sequence[BaseProcess], timeout: float, name: str) -> None:
    """Until all have ended, or one has failed; then the others are killed."""
    deadline = time.monotonic() + timeout
    try:
        while any(each.exitcode is None for each in running) and not any(each.exitcode for each in running):
            assert time.monotonic() < deadline, f"{name} takes more than {timeout} seconds"
            next(each for each in running if each.exitcode is None).join(0.05)
    finally:
        for each in running:
            each.kill()
            each.join()


def _start_server() -> None:
    """Start the process that the others are forked from, once."""
    global _started
    if _started:
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it once, when it is imported
    _CONTEXT.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    _started = True
    if threads is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = threads


def _run(module: str, arguments: list[str], environment: dict[str, str], files: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for number, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [module, *arguments]
    sys.modules.pop(f"{module}.__main__", None)  # it runs again, as __main__
    runpy.run_module(module, run_name="__main__", alter_sys=True)
