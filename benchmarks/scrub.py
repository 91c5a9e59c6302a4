"""Frames per second of the race player while the position slider is dragged over a long trace.

    python -m benchmarks.scrub [--tokens 1024] [--drags 6] [--frames 120]

A synthetic race with two lanes, AR and block diffusion, is shown in headless Chromium without a GPU. A slow drag moves
over the whole range once; a fast drag moves over it four times, back and forth, in the same number of frames; jumps set
scattered positions, like clicks on the slider. Every frame shows another moment. The last line is JSON: the median
and the worst drag and the jumps, in frames per second, and the longest frame of a drag in milliseconds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-frame-rate-limit", "--disable-gpu-vsync"]
WORDS = 400  # different tokens
DRAGS = ("slow", "fast")
DRAG = """
async ([frames, how]) => {
  const range = document.querySelector("[data-range]");
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  await frame();
  let last = performance.now();
  for (let i = 0; i < frames; i += 1) {
    const share = how === "jumps" ? ((i * 37) % frames) / frames : i / (frames - 1);
    const position = how === "fast" ? 1 - Math.abs(((4 * share) % 2) - 1) : share;
    range.value = String(Math.round(Number(range.max) * position));
    range.dispatchEvent(new Event("input"));
    await frame(); // the player changes the page in this frame; the next begins after layout and paint
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  range.dispatchEvent(new Event("change"));
  return times;
}
"""


def synthetic_race(tokens: int, width: int = 32) -> dict[str, Any]:
    """A race of AR, one token per pass, and block diffusion, where each pass unmasks a third of a block's masks."""
    answer = [(at * 7919) % WORDS for at in range(tokens)]

    def fixed(at: int, reason: str) -> list[Any]:
        p = 0.5 + (at * 37 % 50) / 100
        return [at, answer[at], p, reason, [[(answer[at] + 1) % WORDS, (1 - p) / 2]]]

    ar: list[Any] = [["prefill", 0, 0.01, 2, [fixed(0, "ar")]]]
    for at in range(1, tokens):
        ar.append(["commit", 0, round(0.01 + at * 0.005, 6), at - 1, at - 1, at, [fixed(at, "ar")]])
    ar.append(["finish", 0, ar[-1][2], "length", answer])

    blocks: list[Any] = [["prefill", 0, 0.01, 2, []]]
    time = 0.01
    for block, start in enumerate(range(0, tokens, width)):
        stop = min(start + width, tokens)
        left, step = list(range(start, stop)), 0
        while left:
            time = round(time + 0.008, 6)
            now, left = left[::3], [at for place, at in enumerate(left) if place % 3]
            pending = [[at, answer[at], 0.3] for at in left]
            made = [fixed(at, "over_threshold") for at in now]
            blocks.append(["denoise", 0, time, block, step, start, stop, made, pending])
            step += 1
        time = round(time + 0.008, 6)
        blocks.append(["commit", 0, time, block, start, stop, []])
    blocks.append(["finish", 0, time, "length", answer])
    lanes = [_lane("AR", "ar", ar), _lane("Block diffusion", "block_diffusion", blocks)]
    return {"format": "nbdiff-race", "version": 1, "title": f"{tokens} tokens", "verdict": "", "lanes": lanes}


def _lane(name: str, strategy: str, events: list[Any]) -> dict[str, Any]:
    trace = {
        "format": "nbdiff-trace",
        "version": 1,
        "model": "synthetic",
        "settings": {"strategy": strategy, "unmasking": "confidence", "threshold": 0.9, "temperature": 0.0},
        "mask_token_id": WORDS,
        "prompt": "Count",
        "prompt_ids": [0, 1],
        "pieces": {str(token): f" word{token}" for token in range(WORDS)},
        "events": events,
    }
    return {"name": name, "about": "", "trace": trace, "context": "token_causal", "token_shift": True, "text": ""}


def replay_file(race: dict[str, Any], folder: Path) -> Path:
    """Write the race as the HTML file that the playground exports. Returns its path."""
    source, target = folder / "race.json", folder / "race.html"
    source.write_text(json.dumps(race), encoding="utf-8")
    command = [sys.executable, "-m", "playground.server.replay_file", str(source), str(target)]
    subprocess.run(command, check=True, cwd=ROOT)
    return target


def measure(tokens: int, drags: int, frames: int) -> dict[str, Any]:
    """Open the replay file of a race in Chromium, drag the slider, and return the figures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = replay_file(synthetic_race(tokens), Path(folder))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
        page.goto(path.as_uri())
        cells = page.locator(".canvas .token").count()
        page.evaluate(DRAG, [20, "jumps"])  # warm-up
        rates, longest = [], 0.0
        for drag in range(drags):
            times = page.evaluate(DRAG, [frames, DRAGS[drag % 2]])
            rates.append(1000 * len(times) / sum(times))
            longest = max(longest, *times)
            print(
                f"drag {drag + 1}, {DRAGS[drag % 2]}: {rates[-1]:.0f} frames/s, longest {max(times):.0f} ms", flush=True
            )
        times = page.evaluate(DRAG, [frames, "jumps"])
        jumps = 1000 * len(times) / sum(times)
        browser.close()
    return {
        "tokens": tokens,
        "cells": cells,
        "frames_per_second_median": round(statistics.median(rates), 1),
        "frames_per_second_worst": round(min(rates), 1),
        "frames_per_second_jumps": round(jumps, 1),
        "longest_frame_ms": round(longest, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--drags", type=int, default=6)
    parser.add_argument("--frames", type=int, default=120)
    options = parser.parse_args()
    print(json.dumps(measure(options.tokens, options.drags, options.frames)))


if __name__ == "__main__":
    main()
