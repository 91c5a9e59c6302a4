"""The time of a cold start: of the engine to its first token, and of the page to the end of its first race.

    python benchmarks/startup.py --save
    python benchmarks/startup.py --engine --rounds 9     # without a browser

Engine: a new Python process imports nbdiff_engine, loads the model and decodes until it has the first token. Page: the
playground is started and opened in Chromium, and Run is pressed at once. "recorded race" is the first meaningful paint:
the lanes are visible and replay the bundled race. Each figure is the median over --rounds new processes, servers and
browsers, with the files in the system's file cache. The last line is JSON.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import BenchmarkParser, Report, at_least, run, table
from nbdiff_engine.errors import NBDiffError, SettingError

PORT = 7873
# The program of the new process. Argument 1 is the model, argument 2 the strategy; it prints one line of JSON.
ENGINE = """
import json, sys, time
marks = [time.perf_counter()]
import nbdiff_engine as nb
marks.append(time.perf_counter())
try:
    model = nb.load(sys.argv[1])
    nb.choose_threads(model)
    marks.append(time.perf_counter())
    events = nb.stream(model, "What is the capital of Peru?", strategy=sys.argv[2])
    while not next(events).fixed:
        pass
    marks.append(time.perf_counter())
except nb.NBDiffError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps([later - earlier for earlier, later in zip(marks, marks[1:])]))
"""
ENGINE_PARTS = {
    "import": "import nbdiff_engine, torch and transformers with it",
    "load": "load the model, choose the threads",
    "first_token": "the call to its first token",
    "all": "command to the first token",
}
PAGE_PARTS = {
    "server": "command to the server's address",
    "first_paint": "opening the page to its first paint",
    "recorded_race": "opening the page to the recorded race",
    "first_race": "Run to the end of the first race",
    "all": "command to the end of the first race",
}


def measure_engine(model: str, strategy: str) -> dict[str, float]:
    """Seconds of one new process, by part. Raises NBDiffError with the engine's error if it refuses the settings."""
    program = [sys.executable, "-c", ENGINE, model, strategy]
    begun = time.perf_counter()
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()  # not `communicate`: the end of the process is not part of the start
        done = time.perf_counter()
        _, errors = process.communicate()
    if not line:
        raise SettingError(f"The new process ended without a token: {(errors.strip() or 'no output').splitlines()[-1]}")
    found = json.loads(line)
    if isinstance(found, dict):
        raise NBDiffError(found["error"])
    return {**dict(zip(("import", "load", "first_token"), found, strict=True)), "all": done - begun}


def measure_page(model: str) -> dict[str, float]:
    """Seconds of one new server and browser, by part. Raises SettingError if the server does not start."""
    from playwright.sync_api import sync_playwright

    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", str(PORT), "--model", model],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = next((line for line in server.stdout if "is on http" in line), None)
        if address is None:
            raise SettingError(f"The playground did not start; is port {PORT} in use?")
        listening = time.perf_counter()
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or "/usr/bin/chromium"
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            opened = time.perf_counter()
            page.goto(f"http://127.0.0.1:{PORT}", wait_until="commit")
            page.locator("[data-lanes] .token:visible").first.wait_for()
            replaying = time.perf_counter()
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
            page.get_by_role("button", name="Run", exact=True).click()
            page.locator("[data-replaying]", has_text="Live").wait_for()
            page.locator("[data-status]", has_text="Finished.").wait_for()
            done = time.perf_counter()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        "server": listening - begun,
        "first_paint": paint,
        "recorded_race": replaying - opened,
        "first_race": done - replaying,
        "all": listening - begun + done - opened,
    }


def medians(measure: Callable[[], dict[str, float]], rounds: int, label: str) -> dict[str, float]:
    """The median of each part over `rounds` measurements. A first one fills the file cache and is discarded."""
    found = []
    for number in tqdm(range(rounds + 1), desc=label, leave=False, disable=None):
        each = measure()
        if number:
            found.append(each)
    return {part: statistics.median(each[part] for each in found) for part in found[0]}


def parts_table(title: str, words: Mapping[str, str], seconds: Mapping[str, float]) -> str:
    return table((title, "seconds"), [(words[part], f"{seconds[part]:.2f}") for part in words])


def main() -> None:
    options = BenchmarkParser(__doc__)
    options.add_argument("--engine", action="store_true", help="measure only the engine, which needs no browser")
    options.add_argument(
        "--model",
        default="nano",
        help="bundled name, folder or hub id of the model that is loaded",
    )
    options.add_argument(
        "--strategies", nargs="+", default=["ar", "block_diffusion"], help="strategies that decode the first token"
    )
    options.add_argument("--rounds", type=at_least(1), default=5)
    options.add_save()
    given = options.parse_args()
    if not given.engine and not (shutil.which("chromium") or Path("/usr/bin/chromium").exists()):
        raise SettingError("There is no Chromium on the PATH; install it, or give --engine to leave out the page.")
    report = Report("startup", given.save)
    figures: dict[str, object] = {"rounds": given.rounds, "model": given.model, "engine": {}}
    for strategy in given.strategies:
        seconds = medians(lambda strategy=strategy: measure_engine(given.model, strategy), given.rounds, strategy)
        figures["engine"][strategy] = seconds
        report.write("\n" + parts_table(f"engine, {given.model}, {strategy}", ENGINE_PARTS, seconds))
    if not given.engine:
        figures["page"] = medians(lambda: measure_page(given.model), given.rounds, "page")
        report.write("\n" + parts_table("page", PAGE_PARTS, figures["page"]))
    report.finish(figures)


if __name__ == "__main__":
    run(main)
