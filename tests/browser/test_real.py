"""The page in a real browser, over the real server and the bundled checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from studio.image import open_image, write_png

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.timeout(300)]

SLOW = 120_000  # milliseconds; the first picture warms the engines

# In the page itself, which misses no step however slow the machine is.
COLLECT_STEPS = """() => {
    window.seen = [];
    new MutationObserver(() => {
        const stage = document.querySelector('.stage.working');
        if (stage) window.seen.push(stage.dataset.step);
    }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def draw(page: Page, words: str, steps: int) -> None:
    page.locator("#prompt textarea").fill(words)
    page.locator("#steps input[type=number]").fill(str(steps))
    page.click("#generate")


def test_the_whole_line_from_words_to_a_picture_found_again(page, real, tmp_path):
    page.goto(real.url)
    page.evaluate(COLLECT_STEPS)
    draw(page, "a red lighthouse by the sea at sunset", 20)
    expect(page.locator(".stage.done")).to_have_count(1, timeout=SLOW)
    assert len(set(page.evaluate("() => window.seen")) - {"0"}) >= 4
    expect(page.locator(".stage .caption")).to_contain_text("onnxruntime fp32")
    expect(page.locator(".waterfall .lane-step i")).to_have_count(20)
    for lane in ("queue", "text_encode", "decode", "transfer", "save"):
        expect(page.locator(f".waterfall .lane-{lane}")).to_have_count(1)

    draw(page, "cancelled", 150)
    page.wait_for_function("() => +document.querySelector('.stage.working')?.dataset.step >= 2", timeout=SLOW)
    page.keyboard.press("Escape")
    expect(page.locator("#cancel")).to_be_disabled(timeout=5_000)
    assert len(real.studio.history.recent(5)) == 1

    write_png(tmp_path / "start.png", np.full((200, 300, 3), (250, 180, 90), np.uint8))
    page.set_input_files("#start input[type=file]", tmp_path / "start.png")
    expect(page.locator("#strength")).to_be_visible()
    draw(page, "golden hills", 12)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(2, timeout=SLOW)
    expect(page.locator(".waterfall .lane-image_encode")).to_have_count(1)

    page.locator("#start [aria-label='Remove Image'], #start [aria-label=Clear]").first.click()
    draw(page, "found after a reload", 60)
    page.wait_for_function("() => +document.querySelector('.stage.working')?.dataset.step >= 2", timeout=SLOW)
    page.reload()
    page.wait_for_function("() => +document.querySelector('.stage.working')?.dataset.step >= 3", timeout=SLOW)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(3, timeout=SLOW)
    newest = real.studio.history.recent(1)[0]
    assert newest.request.prompt == "found after a reload"
    assert newest.start_image is None
    assert open_image(newest.file).shape == (256, 256, 3)

    page.locator(".strip [data-do=pick]").last.click()
    expect(page.locator("#prompt textarea")).to_have_value("a red lighthouse by the sea at sunset")
    page.click("#generate")
    expect(page.locator(".strip [data-do=pick]")).to_have_count(4, timeout=SLOW)
    again, *_, first = real.studio.history.recent(4)
    assert np.array_equal(open_image(again.file), open_image(first.file))
