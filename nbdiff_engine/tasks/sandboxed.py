"""The program inside the sandbox. It is run by path in a new Python process and imports nothing of this project.

It reads {"code", "name", "calls", "builtins", "cpu_s", "memory", "output"} as JSON from standard input, sets its own
limits, runs the code, and writes {"calls": [...]} or {"failed": sentence} as JSON. Only exact built-in types are
returned: a custom class could override `__eq__`.
"""

import builtins
import json
import os
import resource
import sys

PLAIN = (int, float, str, bool, type(None))


def limit(cpu_s, memory):
    """Set limits that the process cannot raise again."""
    # The first limit sends SIGXCPU, which tells the parent the reason; the second kills a process that ignores it.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # has no effect for the superuser


def lossy_type(value):
    """The name of the first type in a value that JSON cannot represent exactly; None if there is none."""
    if type(value) in PLAIN:
        return None
    if type(value) is list:
        return next((found for each in value if (found := lossy_type(each))), None)
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            return "dict with keys that are not strings"
        return next((found for each in value.values() if (found := lossy_type(each))), None)
    return type(value).__name__


def outcome(function, arguments):
    """The result of one call: its value, or the reason why there is none."""
    try:
        value = function(*arguments)
        kind = lossy_type(value)
    except BaseException as error:
        return {"problem": f"raised {type(error).__name__}"}
    return {"problem": f"returned a {kind}"} if kind else {"value": value}


def run(task):
    """The outcome of every call, or the reason why the code could not be loaded."""
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
    results = os.dup(1)  # only the results go to standard output; the output of the code is discarded
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
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
        text = json.dumps({"failed": f"returned a value that cannot be written as JSON ({type(error).__name__})"})
    os.write(results, text.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
