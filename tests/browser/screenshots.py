"""Takes the README's screenshots of a running studio: ``python tests/browser/screenshots.py URL``.

Start the studio first, with ``--no-browser`` and an empty ``STUDIO_DATA``; about a dozen pictures are drawn.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).parents[2] / "assets" / "screenshots"
MAX_BYTES = 300_000
SLOW = 180_000  # milliseconds
PROMPTS = (
    "a pink cat on the right in a meadow, cherry trees",
    "two yellow balloons over snowy mountains at dawn",
    "a blue tent on the left by a lake at night, pine trees",
    "a green boat in the middle of the ocean, rain",
    "three red mushrooms in a forest, golden tones",
    "a purple kite on the left over the desert by day",
    "a blue whale on the right, the sea at night",
)


def main(url: str) -> None:
    """Draw and photograph."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        page = opened(browser, url, "light")
        keep(page, "welcome.png")
        for words in PROMPTS:
            draw(page, words)
        draw(page, "a violet house in the middle of the woods at sunset")
        keep(page, "finished.png")
        batch_from_a_picture(opened(browser, url, "dark"))
        drawing(opened(browser, url, "dark"))
        phone = opened(browser, url, "light", phone=True)
        phone.locator(".strip [data-do=pick]").nth(5).click()
        phone.wait_for_function("() => document.querySelector('#prompt textarea').value")
        keep(phone, "phone.png")
        browser.close()


def opened(browser: Browser, url: str, scheme: str, phone: bool = False) -> Page:
    """The page in a fresh profile."""
    size = {"width": 390, "height": 844} if phone else {"width": 1440, "height": 1000}
    context = browser.new_context(
        viewport=size,
        color_scheme=scheme,
        is_mobile=phone,
        has_touch=phone,
        device_scale_factor=2 if phone else 1,
    )
    context.set_default_timeout(SLOW)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".stage")
    return page


def draw(page: Page, words: str) -> None:
    """One press of Generate, to its end."""
    made = page.locator(".strip [data-do=pick]").count()
    page.locator("#prompt textarea").fill(words)
    page.click("#generate")
    page.wait_for_function(
        "(made) => document.querySelectorAll('.strip [data-do=pick]').length > made", arg=made
    )
    page.wait_for_function("() => document.querySelector('#cancel').disabled")


def batch_from_a_picture(page: Page) -> None:
    """Four pictures from a start image."""
    page.locator(".stage figure").first.hover()
    page.get_by_role("button", name="Use as start image").click()
    page.wait_for_selector("#start img")
    page.locator("#count input[type=number]").fill("4")
    page.locator("#strength input[type=number]").fill("0.9")
    draw(page, "a violet house in the middle of the woods at night")
    keep(page, "start-image.png")


def drawing(page: Page) -> None:
    """A picture half way."""
    page.locator("#prompt textarea").fill("two orange balloons over the mountains, cloudy, teal")
    page.locator("#steps input[type=number]").fill("40")
    page.click("#generate")
    page.wait_for_function("() => +document.querySelector('.stage.working')?.dataset.step >= 18")
    keep(page, "create.png")
    page.wait_for_selector(".stage.done")


def keep(page: Page, name: str) -> None:
    """Save what is seen, in few bytes."""
    page.mouse.move(0, 0)
    page.evaluate("() => { scrollTo(0, 0); document.activeElement?.blur(); }")
    page.evaluate("() => Promise.all([...document.images].map((image) => image.decode().catch(() => null)))")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    file = FOLDER / name
    shot.save(file, optimize=True)
    if file.stat().st_size > MAX_BYTES:
        shot.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860/")
