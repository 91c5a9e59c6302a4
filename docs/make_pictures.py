"""Makes the README's pictures of the playground: python docs/make_pictures.py

Starts the app, runs a race in Chromium, and writes docs/playground-light.png, docs/playground-dark.png,
docs/block-sizes.png, and docs/race.webp, an animation of the race's replay.
"""

import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).resolve().parent
PORT = 7872
URL = f"http://127.0.0.1:{PORT}"
FRAMES = 60
FRAME_MS = 90
EXPLAINED = 9  # the token whose explanation is open


def main() -> None:
    server = subprocess.Popen(
        [sys.executable, str(DOCS.parent / "app.py"), "--port", str(PORT), "--model", "nano"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        next(line for line in server.stdout if "is on http" in line)
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or "/usr/bin/chromium"
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for scheme in ("light", "dark"):
                page = open_page(browser, scheme, 1280, 1480)
                run_race(page)
                explain_a_token(page)
                page.wait_for_timeout(400)
                page.screenshot(path=DOCS / f"playground-{scheme}.png", full_page=False)
                if scheme == "light":
                    animate(page, DOCS / "race.webp")
                page.context.close()
            page = open_page(browser, "light", 1280, 1480)
            run_sweep(page)
            page.screenshot(path=DOCS / "block-sizes.png", full_page=True)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def open_page(browser: Browser, scheme: str, width: int, height: int) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(URL)
    page.locator("[data-lanes] section").first.wait_for()
    return page


def run_race(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("[data-replaying]", has_text="Live").wait_for()
    page.locator("[data-status]", has_text="Finished.").wait_for(timeout=300_000)


def seek(page: Page, share: float) -> None:
    """Show the race at this share of its time."""
    page.locator("[data-range]").evaluate("(node, share) => { node.value = node.max * share; }", share)
    page.locator("[data-range]").dispatch_event("input")


def explain_a_token(page: Page) -> None:
    """Stop where the second lane has some tokens, and open the explanation of one of them."""
    tokens = page.locator("[data-lanes] section").nth(1).locator(".token:visible")
    for percent in range(5, 100, 5):
        seek(page, percent / 100)
        page.wait_for_timeout(100)
        if tokens.count() > EXPLAINED:
            break
    tokens.nth(EXPLAINED).click()


def animate(page: Page, path: Path) -> None:
    """Write the replay, from start to end, as an animation of the lanes."""
    lanes = page.locator("[data-lanes]")
    page.keyboard.press("Escape")
    frames = []
    for number in range(FRAMES):
        share = number / (FRAMES - 1)
        seek(page, share)
        page.wait_for_timeout(60)
        frames.append(Image.open(BytesIO(lanes.screenshot())).convert("RGB"))
    width, height = min(each.size for each in frames)
    frames = [each.crop((0, 0, width, height)) for each in frames]
    durations = [FRAME_MS] * (FRAMES - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=70, method=6)


def run_sweep(page: Page) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    page.locator("#sweep-run").click()
    page.locator("#sweep-said", has_text="Done:").wait_for(timeout=600_000)
    page.wait_for_timeout(2500)


if __name__ == "__main__":
    main()
