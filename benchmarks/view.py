"""The cost of the page's view: the same answers decoded with and without it, in turns.

    python benchmarks/view.py               # without a browser
    python benchmarks/view.py --browser     # also in the playground, without and with Chromium showing the race

The first table is measured by playground/race/view_cost.py, which defines "engine" and "wall". For the second table the
playground runs as a server. "watched" is with a browser, "unwatched" through the API, and "cost" is the median of
(unwatched / watched - 1). The last line is JSON.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nbdiff_engine.evaluation.machine_facts import machine_facts

PROMPT = "Tell me a story in the forest with Mia, a purple wagon and a mouse."
STRATEGIES = ("ar", "block_diffusion", "self_speculative")
PORT = 7871


def on_the_server(pairs: int, tokens: int) -> dict[str, dict[str, float]]:
    """Cost of the view without a browser, by strategy, measured by playground/race/view_cost.py."""
    command = [sys.executable, "-m", "playground.race.view_cost", "--pairs", str(pairs), "--tokens", str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def in_the_playground(tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second by the engine's clock, with requests to the API and with races in a browser, in turns."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", str(PORT), "--model", "nano"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in server.stdout:
            if "is on http" in line:
                break
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{PORT}")
            page.get_by_label("Ignore end-of-text").check()
            page.get_by_role("textbox", name="Prompt").fill(PROMPT)
            page.get_by_label("Max new tokens").fill(str(tokens))
            found: dict[str, dict[str, list[float]]] = {name: {"unwatched": [], "watched": []} for name in STRATEGIES}
            for _ in tqdm(range(rounds), desc="playground", leave=False, disable=None):
                page.locator("[data-play]").click()
                for name in STRATEGIES:
                    found[name]["unwatched"].append(_rate_by_api(name, tokens))
                page.get_by_role("button", name="Run", exact=True).click()
                page.locator("[data-replaying]", has_text="Live").wait_for()
                page.locator("[data-status]", has_text="Finished.").wait_for(timeout=120_000)
                page.locator("[data-range]").press("End")
                rates = page.locator("[data-lanes] section").evaluate_all(
                    "nodes => nodes.map(node => Number([...node.querySelectorAll('dt')]"
                    ".find(each => each.textContent === 'Output tokens/s').nextElementSibling"
                    ".textContent.replaceAll(',', '')))"
                )
                for name, rate in zip(STRATEGIES, rates, strict=True):
                    found[name]["watched"].append(rate)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        name: {way: statistics.median(rates) for way, rates in ways.items()}
        | {"cost": statistics.median(a / b - 1 for a, b in zip(ways["unwatched"], ways["watched"], strict=True))}
        for name, ways in found.items()
    }


def _rate_by_api(strategy: str, tokens: int) -> float:
    """Tokens per second of one answer."""
    from gradio_client import Client

    client = Client(f"http://127.0.0.1:{PORT}", verbose=False)
    settings = {"block_size": 16} if strategy != "ar" else {}
    out = client.predict(PROMPT, "", strategy, tokens, False, True, settings, api_name="/generate")
    return out["metrics"]["tokens_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of runs for each strategy")
    parser.add_argument("--tokens", type=int, default=512, help="tokens per answer")
    parser.add_argument(
        "--browser", action="store_true", help="also measure in the playground, with and without Chromium"
    )
    options = parser.parse_args()

    report: dict[str, Any] = {"pairs": options.pairs, "tokens": options.tokens}
    report["view"] = on_the_server(options.pairs, options.tokens)
    print(f"{'strategy':<18}{'tokens/s':>10}{'engine':>9}{'wall':>9}   (cost of the view, no browser)")
    for strategy, cost in report["view"].items():
        rate = cost["tokens_per_second_without"]
        print(f"{strategy:<18}{rate:>10.0f}{cost['engine']:>9.1%}{cost['wall']:>9.1%}")
    if options.browser:
        report["browser"] = in_the_playground(options.tokens, rounds=5)
        print(f"\n{'strategy':<18}{'unwatched':>10}{'watched':>9}{'cost':>9}   (tokens/s by the engine's clock)")
        for strategy, row in report["browser"].items():
            print(f"{strategy:<18}{row['unwatched']:>10.0f}{row['watched']:>9.0f}{row['cost']:>9.1%}")
    print(json.dumps({**report, "machine": machine_facts().to_json()}))


if __name__ == "__main__":
    main()
