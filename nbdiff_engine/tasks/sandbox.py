"""Runs a function that a model wrote: in another process, with an allowlist of syntax and names, and with limits.

The allowlist comes first: the code is parsed, and refused if it contains more than plain functions over numbers, texts
and lists. Code that passes runs in a new Python process without environment variables, in an empty folder, with limits
on processor time, memory and files. On a system that is not POSIX, no code runs.
"""

import ast
import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdiff_engine.errors import NBDiffError, brief_text

SECONDS = 2  # of the wall clock, and of processor time
MEMORY = 256 * 2**20
MAX_CODE = 4_000  # characters
MAX_OUTPUT = 60_000  # characters; a pipe's buffer holds more, so the child never waits for its reader
_NO_RESULT = "ended before it gave a result"
_CHILD = Path(__file__).with_name("sandboxed.py")

_NODE_NAMES = """
    Module FunctionDef arguments arg Return Lambda Expr Pass
    Assign AnnAssign AugAssign For While If IfExp Break Continue
    BoolOp And Or UnaryOp Not USub UAdd BinOp Add Sub Mult Div FloorDiv Mod Pow
    Compare Eq NotEq Lt LtE Gt GtE In NotIn Is IsNot
    Call keyword Attribute Subscript Slice Starred Name Load Store Constant JoinedStr FormattedValue
    List Tuple Dict Set ListComp SetComp DictComp GeneratorExp comprehension
"""
_BUILTIN_NAMES = """
    abs all any bool chr dict divmod enumerate filter float int isinstance len list map max min ord range reversed
    round set sorted str sum tuple zip
"""
_METHOD_NAMES = """
    add append capitalize copy count endswith extend find get index insert isalnum isalpha isdigit islower isspace
    isupper items join keys lower lstrip pop remove replace reverse rfind rstrip sort split splitlines startswith
    strip swapcase title update upper values zfill
"""
NODES = tuple(getattr(ast, name) for name in _NODE_NAMES.split())
BUILTINS = frozenset(_BUILTIN_NAMES.split())
METHODS = frozenset(_METHOD_NAMES.split())


class SandboxError(NBDiffError):
    """The code was refused, or ended without results."""


class CodeRefused(SandboxError):
    """The code contains what the allowlist does not."""


class SandboxUnavailable(SandboxError):
    """This system cannot set the limits that the sandbox needs."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The result of one call. problem: the reason if there is no value."""

    value: Any = None
    problem: str | None = None


def refusal(code: str) -> str | None:
    """The reason why the sandbox refuses this code; None if it accepts the code."""
    if len(code) > MAX_CODE:
        return f"is {len(code):,} characters long; at most {MAX_CODE:,} are run"
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is not valid Python ({brief_text(getattr(error, 'msg', None) or type(error).__name__)})"
    nodes = list(ast.walk(tree))
    known = set(BUILTINS)
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    return next((f"uses {found}" for node in nodes if (found := _forbidden(node, known))), None)


def _forbidden(node: ast.AST, known: set[str]) -> str | None:
    if not isinstance(node, NODES):
        return type(node).__name__
    if isinstance(node, ast.Attribute) and node.attr not in METHODS:
        return f".{node.attr}"
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        return f"an assignment to .{node.attr}"
    if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
        return "a format specification"
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        return "a decorator"
    name = {ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name", ast.keyword: "arg"}.get(type(node))
    text = getattr(node, name) if name else None
    if text is not None and text.startswith("_") and text != "_":
        return text
    return text if isinstance(node, ast.Name) and text not in known else None


def run(code: str, name: str, calls: list[list[Any]]) -> list[CallOutcome]:
    """Call function `name` of `code` with each of the argument lists, in one process. Arguments are JSON values.

    Raises SandboxError with the reason if the code has no results, SandboxUnavailable if the system has no limits.
    """
    if found := refusal(code):
        raise CodeRefused(f"refused: {found}")
    return run_unlisted(code, name, calls)


def run_unlisted(code: str, name: str, calls: list[list[Any]]) -> list[CallOutcome]:
    """`run` without the allowlist: only the limits of the process protect the system."""
    if os.name != "posix" or importlib.util.find_spec("resource") is None:
        raise SandboxUnavailable("this system has no resource limits, so no code is run")
    task = {
        "code": code,
        "name": name,
        "calls": calls,
        "builtins": sorted(BUILTINS),
        "cpu_s": SECONDS,
        "memory": MEMORY,
        "output": MAX_OUTPUT,
    }
    report = _report(json.dumps(task))
    if not isinstance(report, dict):
        raise SandboxError(_NO_RESULT)
    if "unlimited" in report:
        raise SandboxUnavailable(f"this system did not set the limits, so no code was run ({report['unlimited']})")
    if "failed" in report:
        raise SandboxError(report["failed"])
    results = report.get("calls")
    if (
        not isinstance(results, list)
        or len(results) != len(calls)
        or not all(isinstance(each, dict) for each in results)
    ):
        raise SandboxError(_NO_RESULT)
    return [CallOutcome(each.get("value"), each.get("problem")) for each in results]


def _report(task: str) -> Any:
    """The JSON value that the child writes, read with a deadline and a size limit. Raises SandboxError."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as given:
        given.write(task.encode())
        given.seek(0)
        # -I: no environment, no user packages, no current folder; -S: no installed packages
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            written, timed_out = _read(process.stdout.fileno(), time.monotonic() + SECONDS)
        finally:
            # The process id cannot be reused before wait(), so this kills only the child and processes it started.
            # Some systems refuse a signal to a process that has ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            status = process.wait()
    if timed_out or status == -signal.SIGXCPU:
        raise SandboxError(f"timed out after {SECONDS} s")
    try:
        return json.loads(written)
    except (ValueError, RecursionError) as error:
        raise SandboxError(_NO_RESULT) from error


def _read(source: int, deadline: float) -> tuple[bytes, bool]:
    """The bytes until the end of the stream, the size limit or the deadline, and whether the deadline was reached."""
    written = b""
    while len(written) <= 2 * MAX_OUTPUT:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return written, True
        piece = os.read(source, 65_536)
        if not piece:
            break
        written += piece
    return written, False
