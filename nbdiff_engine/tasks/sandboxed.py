"""The program inside the sandbox, run by path in a Python of its own: it imports nothing of this project.

It takes {"code", "name", "calls", "builtins", "cpu_s", "memory", "output"} as JSON on standard input, limits itself,
runs the code, and writes {"calls": [...]} or {"failed": sentence} as JSON. Only values of exactly Python's own plain
types come back, so that no object of the code's making can answer for itself.
"""

import builtins
import json
import os
import resource
import sys

PLAIN = (int, float, str, bool, type(None))


def limit(cpu_s, memory):
    """Limits that the process cannot raise again."""
    # The first limit says what happened (SIGXCPU); the second one ends who would not listen.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # the superuser is not bound by this one


def odd(value):
    """The name of the first type in a value that JSON would change or lose; None if there is none."""
    if type(value) in PLAIN:
        return None
    if type(value) is list:
        return next((found for each in value if (found := odd(each))), None)
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            return "dict with keys that are not strings"
        return next((found for each in value.values() if (found := odd(each))), None)
    return type(value).__name__


def outcome(function, arguments):
    """What one call gave: its value, or why there is none."""
    try:
        value = function(*arguments)
        kind = odd(value)
    except BaseException as error:
        return {"problem": f"raised {type(error).__name__}"}
    return {"problem": f"returned a {kind}"} if kind else {"value": value}


def run(task):
    """The outcome of every call, or why the code could not be loaded."""
    names = {"__builtins__": {name: getattr(builtins, name) for name in task["builtins"]}}
    try:
        exec(compile(task["code"], "answer", "exec"), names)
    except BaseException as error:
        return {"failed": f"raised {type(error).__name__}"}
    function = names.get(task["name"])
    if not callable(function):
        return {"failed": f"defines no function {task['name']}"}
    return {"calls": [outcome(function, arguments) for arguments in task["calls"]]}


def main():
    task = json.load(sys.stdin)
    answers = os.dup(1)  # where the results go; whatever the code prints goes nowhere
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        limit(task["cpu_s"], task["memory"])
    except (OSError, ValueError) as error:
        report = {"unlimited": str(error)}
    else:
        report = run(task)
    try:
        text = json.dumps(report)
        if len(text) > task["output"]:
            text = json.dumps({"failed": "returned too much"})
    except BaseException as error:
        text = json.dumps({"failed": f"returned what cannot be written down ({type(error).__name__})"})
    os.write(answers, text.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
