"""From the command to the first race: python benchmarks/startup.py

Starts the playground, opens it in Chromium and presses Run at once. Prints the seconds of each part, the median of
--rounds fresh servers and browsers; the last line is JSON. "Recorded race" is the first meaningful paint: the lanes
are there and the bundled race is replaying.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nbdiff_engine.machine_facts import machine_facts

PORT = 7873
PARTS = {
    "server": "command to the server's address",
    "first_paint": "opening the page to its first paint",
    "recorded_race": "opening the page to the recorded race",
    "first_race": "Run to the end of the first race",
    "all": "command to the end of the first race",
}


def measure() -> dict[str, float]:
    """Seconds of one fresh server and browser."""
    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", str(PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        next(line for line in server.stdout if "is on http" in line)
        up = time.perf_counter()
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
        "server": up - begun,
        "first_paint": paint,
        "recorded_race": replaying - opened,
        "first_race": done - replaying,
        "all": up - begun + done - opened,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = [measure() for _ in tqdm(range(parser.parse_args().rounds), leave=False, disable=None)]
    medians = {part: statistics.median(each[part] for each in rounds) for part in PARTS}
    for part, words in PARTS.items():
        print(f"{words:<42}{medians[part]:>6.1f} s")
    print(json.dumps({"seconds": medians, "rounds": len(rounds), "machine": machine_facts()}))


if __name__ == "__main__":
    main()
