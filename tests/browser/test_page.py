"""The page in a real browser, over a scripted client: everything an artist does with it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import png_header
from PIL import Image
from playwright.sync_api import Page, expect

from studio.engines.key import Profile
from studio.engines.swap import Status
from studio.errors import RequestError, ServerError
from studio.history import History
from studio.image import open_image, write_png
from studio.request import ImageRequest, ImageResult

pytestmark = pytest.mark.browser

GENERATE, CANCEL = "#generate", "#cancel"
DONE, WORKING = ".stage.done", ".stage.working"


class FakeEngines:
    """Offers an engine for every size, and is 42 % done once one is wanted."""

    def __init__(self) -> None:
        self.status = Status()
        self.wanted: list[Profile] = []

    def offer(self, batch: int, height: int, width: int) -> Profile | None:
        return Profile.fixed(batch, height, width)

    def want(self, profile: Profile) -> None:
        self.wanted.append(profile)
        self.status = Status("Building the denoiser", 0.42)


def write(page: Page, words: str) -> None:
    page.locator("#prompt textarea").fill(words)


def made(page: Page) -> int:
    return page.locator(".strip [data-do=pick]").count()


def step_at_least(page: Page, step: int) -> None:
    page.wait_for_function(f"() => +document.querySelector('{WORKING}')?.dataset.step >= {step}")


def test_words_become_a_picture_step_by_step(page, serve):
    served = serve(seconds_per_step=0.08)
    page.goto(served.url)
    expect(page.locator(".stage.empty")).to_be_visible()
    write(page, "a red house")
    page.click(GENERATE)
    seen = set()
    while not page.locator(DONE).count():
        seen.add(page.evaluate(f"() => document.querySelector('{WORKING}')?.dataset.step"))
    assert len(seen - {None, "0"}) >= 10
    expect(page.locator(".stage .caption")).to_contain_text("openvino bf16")
    expect(page.locator(".stage .where")).to_contain_text("a-red-house")
    expect(page.locator(".waterfall .lane-step i")).to_have_count(20)
    for lane in ("queue", "text_encode", "decode", "transfer", "save"):
        expect(page.locator(f".waterfall .lane-{lane}")).to_have_count(1)
    picture = page.locator(".stage.done img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    assert made(page) == 1
    assert served.client.asked[0].prompt == "a red house"


def test_shortcuts_generate_and_cancel(page, serve):
    served = serve(seconds_per_step=0.4)
    page.goto(served.url)
    write(page, "a sea")
    expect(page.locator(CANCEL)).to_be_disabled()
    page.keyboard.press("Control+Enter")
    step_at_least(page, 3)
    page.keyboard.press("Escape")
    expect(page.locator(CANCEL)).to_be_disabled()
    expect(page.locator(".stage.empty")).to_be_visible()
    assert served.client.steps_done < 15
    assert served.studio.history.recent(1) == []
    assert page.locator("#prompt textarea").input_value() == "a sea"


def test_presses_queue_up_and_each_is_made(page, serve):
    served = serve(seconds_per_step=0.02)
    page.goto(served.url)
    write(page, "a cat")
    for _ in range(4):
        page.click(GENERATE)
    expect(page.locator("#waiting")).to_contain_text("waiting")
    expect(page.locator(".strip [data-do=pick]")).to_have_count(4)
    expect(page.locator(CANCEL)).to_be_disabled()
    assert len({request.seed for request in served.client.asked}) == 4


def test_waiting_pictures_can_be_cleared(page, serve):
    served = serve(seconds_per_step=1)
    page.goto(served.url)
    for _ in range(3):
        page.click(GENERATE)
    page.locator("#waiting button").click()
    expect(page.locator("#waiting")).to_have_text("")
    page.click(CANCEL)
    expect(page.locator(CANCEL)).to_be_disabled()
    assert len(served.client.asked) == 1


def test_a_reload_finds_the_running_picture_the_draft_and_then_the_result(page, serve):
    served = serve(seconds_per_step=0.15)
    page.goto(served.url)
    write(page, "a tent by a lake")
    page.locator("#negative textarea").fill("rain")
    page.click(GENERATE)
    step_at_least(page, 3)
    page.reload()
    step_at_least(page, 4)
    assert page.locator("#prompt textarea").input_value() == "a tent by a lake"
    assert page.locator("#negative textarea").input_value() == "rain"
    expect(page.locator(DONE)).to_be_visible()
    assert len(served.client.asked) == 1
    page.reload()
    expect(page.locator(DONE)).to_be_visible()
    expect(page.locator(".stage .where")).to_contain_text("a-tent-by-a-lake")
    assert made(page) == 1


def test_start_image_by_upload_strength_and_use_as_start(page, serve, tmp_path):
    served = serve()
    write_png(tmp_path / "start.png", np.full((100, 200, 3), 180, np.uint8))
    page.goto(served.url)
    expect(page.locator("#strength")).to_be_hidden()
    page.set_input_files("#start input[type=file]", tmp_path / "start.png")
    expect(page.locator("#strength")).to_be_visible()
    page.locator("#strength input[type=number]").fill("0.35")
    write(page, "warmer")
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    asked = served.client.asked[0]
    assert asked.image.shape == (256, 256, 3)
    assert asked.image.mean() == 180
    assert asked.strength == 0.35
    page.locator(".stage figure").hover()
    page.get_by_role("button", name="Use as start image").click()
    page.wait_for_function("() => document.querySelector('#start img')?.naturalWidth === 256")
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(2)
    first = served.studio.history.recent(2)[1]
    assert np.array_equal(served.client.asked[1].image, open_image(first.file))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("text.png", b"this is no picture", "not a picture"),
        ("huge.png", png_header(30_000, 30_000), "too large"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x40\x08\x02\0\0\0", "picture"),
    ],
)
def test_a_bad_upload_gets_one_sentence_and_keeps_what_was_typed(page, serve, tmp_path, name, data, says):
    served = serve()
    (tmp_path / name).write_bytes(data)
    page.goto(served.url)
    write(page, "a whale")
    page.set_input_files("#start input[type=file]", tmp_path / name)
    expect(page.get_by_role("alert")).to_contain_text(says)
    assert "Traceback" not in page.content()
    assert page.locator("#prompt textarea").input_value() == "a whale"
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    assert served.client.asked[0].image is None


def test_errors_are_sentences_and_clear_nothing(page, serve):
    served = serve(faults=[ServerError("The engine gave a black picture.", hint="Press Generate again.")])
    page.goto(served.url)
    write(page, "a boat")
    page.click(GENERATE)
    expect(page.get_by_role("alert")).to_have_text(re.compile("black picture.*Press Generate again"))
    assert page.locator("#prompt textarea").input_value() == "a boat"
    page.locator("#seed textarea").press_sequentially("many")
    expect(page.locator("#keep input")).to_be_checked()
    page.click(GENERATE)
    expect(page.get_by_role("alert")).to_contain_text("seed must be a whole number")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.locator("#seed textarea").fill("9223372036854775807")
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    assert served.client.asked[-1].seed == 2**63 - 1


def test_warnings_are_shown_with_the_picture(page, serve):
    page.goto(serve(warnings=("The last 4 words did not fit and were left out.",)).url)
    page.click(GENERATE)
    expect(page.locator(".remarks").get_by_text("4 words did not fit")).to_be_visible()
    expect(page.locator(DONE)).to_be_visible()


def test_a_click_in_the_strip_brings_a_picture_and_its_settings_back(page, serve):
    served = serve()
    page.goto(served.url)
    write(page, "a red boat")
    page.locator("#steps input[type=number]").fill("7")
    page.get_by_label("Landscape").check(force=True)
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(1)
    write(page, "something else")
    page.locator("#steps input[type=number]").fill("9")
    page.get_by_label("Square").check(force=True)
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(2)
    page.locator(".strip [data-do=pick]").nth(1).click()
    expect(page.locator("#prompt textarea")).to_have_value("a red boat")
    expect(page.locator("#steps input[type=number]")).to_have_value("7")
    expect(page.locator("#height input")).to_have_value("192")
    expect(page.locator("#seed textarea")).to_have_value(str(served.client.asked[0].seed))
    expect(page.locator("#keep input")).to_be_checked()
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(3)
    assert served.client.asked[2] == served.client.asked[0]


def test_a_picture_can_be_put_aside(page, serve):
    served = serve()
    page.goto(served.url)
    page.click(GENERATE)
    page.locator(".stage figure").hover()
    page.get_by_role("button", name="Put aside").click()
    expect(page.locator("#notice")).to_contain_text("discarded")
    expect(page.locator(".stage.empty")).to_be_visible()
    assert len(list((served.studio.history.data_dir / "discarded").iterdir())) == 1


def test_older_pictures_come_where_the_artist_is(page, serve, tmp_path):
    small = ImageRequest("a sea", steps=1, width=64, height=64)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    with History(tmp_path / "data") as history:
        for seed in range(50):
            history.keep(ImageResult(small, pixels, (seed,), (), "engine", "model"), 0)
    page.goto(serve().url)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(40)
    page.get_by_role("button", name="Older…").click()
    expect(page.locator(".strip [data-do=pick]")).to_have_count(50)
    expect(page.get_by_role("button", name="Older…")).to_have_count(0)
    page.wait_for_function("() => document.querySelector('.strip').scrollLeft > 1000")


def test_a_dropped_picture_brings_its_settings_back(page, serve):
    served = serve()
    page.goto(served.url)
    write(page, "a pink cat, on the left")
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    file = served.studio.history.recent(1)[0].file
    write(page, "")
    drop(page, file)
    expect(page.locator("#prompt textarea")).to_have_value("a pink cat, on the left")
    expect(page.locator("#notice")).to_contain_text("settings are back")


def test_a_dropped_picture_without_settings_becomes_the_start_image(page, serve, tmp_path):
    served = serve()
    write_png(tmp_path / "photo.png", np.full((64, 64, 3), 200, np.uint8))
    page.goto(served.url)
    expect(page.locator(".stage.empty")).to_be_visible()
    drop(page, tmp_path / "photo.png")
    expect(page.locator("#notice")).to_contain_text("start image now")
    expect(page.locator("#strength")).to_be_visible()
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    assert served.client.asked[0].image.mean() == 200
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0Screenshot"
    Image.new("RGB", (64, 64)).save(tmp_path / "screen.jpg", exif=exif)
    write(page, "what I typed")
    drop(page, tmp_path / "screen.jpg")
    expect(page.locator("#notice")).to_contain_text("start image now")
    expect(page.locator("#prompt textarea")).to_have_value("what I typed")
    (tmp_path / "text.png").write_text("no picture")
    drop(page, tmp_path / "text.png")
    expect(page.get_by_role("alert")).to_contain_text("not a picture")


def test_a_start_image_with_settings_offers_them(page, serve, tmp_path):
    text = (
        "a castle\nNegative prompt: fog\nSteps: 11, Sampler: Restart, CFG scale: 4.5, Seed: 5, Size: 128x192"
    )
    write_png(tmp_path / "a1111.png", np.zeros((192, 128, 3), np.uint8), text)
    page.goto(serve().url)
    page.set_input_files("#start input[type=file]", tmp_path / "a1111.png")
    page.get_by_role("button", name="Use them").click()
    expect(page.locator("#prompt textarea")).to_have_value("a castle")
    expect(page.locator("#negative textarea")).to_have_value("fog")
    expect(page.locator("#steps input[type=number]")).to_have_value("11")
    expect(page.locator("#width input")).to_have_value("128")
    expect(page.locator("#shape label.selected")).to_have_text("Custom")
    expect(page.locator("#notice")).to_contain_text("Restart")


def test_a_size_without_engine_offers_one_and_shows_it_being_made(page, serve):
    engines = FakeEngines()
    page.goto(serve(engines=engines).url)
    page.click(GENERATE)
    page.get_by_role("button", name="Make one").click()
    expect(page.locator("#notice")).to_contain_text("while nothing is being drawn")
    expect(page.locator("#engines")).to_contain_text("Building the denoiser")
    expect(page.locator("#engines [role=progressbar]")).to_have_attribute("aria-valuenow", "42")
    assert engines.wanted == [Profile.fixed(1, 32, 32)]


def test_lock_keeps_the_seed_and_roll_makes_a_new_one(page, serve):
    served = serve()
    page.goto(served.url)
    page.click(GENERATE)
    expect(page.locator("#seed textarea")).to_have_value(re.compile(r"\d+"))
    expect(page.locator("#keep input")).not_to_be_checked()
    page.locator("#keep input").check()
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(2)
    page.locator("#dice").click()
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(3)
    first, second, third = (request.seed for request in served.client.asked)
    assert first == second != third


def test_a_seed_locked_while_a_picture_is_drawn_stays(page, serve):
    served = serve(seconds_per_step=0.1)
    page.goto(served.url)
    page.click(GENERATE)
    step_at_least(page, 1)
    page.locator("#seed textarea").press_sequentially("42")
    expect(page.locator(DONE)).to_be_visible()
    expect(page.locator("#keep input")).to_be_checked()
    expect(page.locator("#seed textarea")).to_have_value("42")
    page.click(GENERATE)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(2)
    assert served.client.asked[-1].seed == 42


def test_a_picture_that_cannot_be_saved_stays_in_sight(page, serve, tmp_path):
    served = serve(seconds_per_step=0.05)
    page.goto(served.url)
    shutil.rmtree(served.studio.history.pictures_dir, ignore_errors=True)
    served.studio.history.pictures_dir.write_text("in the way")
    for _ in range(3):
        page.click(GENERATE)
    expect(page.get_by_text("Download (not saved yet)")).to_be_visible()
    expect(page.locator(CANCEL)).to_be_disabled()
    assert len(served.client.asked) == 1
    page.reload()
    expect(page.get_by_text("Download (not saved yet)")).to_be_visible()


def test_an_error_is_said_though_another_picture_follows(page, serve):
    served = serve(seconds_per_step=0.2, faults=[ServerError("The engine gave a black picture.")])
    page.goto(served.url)
    for _ in range(2):
        page.click(GENERATE)
    expect(page.get_by_role("alert")).to_contain_text("black picture")
    expect(page.locator(DONE)).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("black picture")


def test_two_tabs_are_two_artists(page, serve):
    served = serve(seconds_per_step=0.2)
    page.goto(served.url)
    other = page.context.new_page()
    other.goto(served.url)
    page.click(GENERATE)
    step_at_least(page, 1)
    other.click(GENERATE)
    expect(other.locator(WORKING)).to_contain_text("ahead of this one")
    other.click(CANCEL)
    expect(other.locator(CANCEL)).to_be_disabled()
    expect(page.locator(DONE)).to_be_visible(timeout=30_000)
    other.close()


def test_markup_in_a_prompt_is_text(page, serve):
    words = """{{#if}} {{value}} ${1+1} </textarea><img src=x onerror="document.title='owned'"> `'\\"&amp;"""
    served = serve()
    page.goto(served.url)
    write(page, words)
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    expect(page.locator(".stage figure img")).to_have_attribute("alt", words)
    assert page.title() == "Triton Studio"
    page.reload()
    page.locator(".strip [data-do=pick]").click()
    expect(page.locator("#prompt textarea")).to_have_value(words)
    assert served.client.asked[0].prompt == words


def test_odd_sizes_reach_the_pipelines_that_explain_them(page, serve):
    served = serve(faults=[RequestError("width is 7; it must be a multiple of 8 between 64 and 2048.")])
    page.goto(served.url)
    page.locator("#width input").fill("7")
    page.click(GENERATE)
    expect(page.get_by_role("alert")).to_contain_text("width is 7")
    assert served.client.asked[0].width == 7
    expect(page.locator("#width input")).to_have_value("7")


def test_a_batch_is_shown_whole(page, serve):
    page.goto(serve().url)
    page.locator("#count input[type=number]").fill("4")
    page.click(GENERATE)
    expect(page.locator(".stage.done figure")).to_have_count(4)
    expect(page.locator(".strip [data-do=pick]")).to_have_count(4)


def test_every_control_has_a_name_and_nothing_overflows_a_phone(page, serve):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(serve().url)
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for name in ("Prompt", "Leave out", "Seed", "Width", "Height", "Sampler", "Lock"):
        expect(page.get_by_label(name, exact=True).first).to_be_attached()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, a')].filter((e) => e.offsetParent
          && !(e.innerText || e.ariaLabel || e.title || e.labels?.length || e.ariaLabelledByElements?.length))
          .map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


def test_the_page_is_used_with_the_keyboard_alone(page, serve):
    page.goto(serve().url)
    expect(page.locator("#prompt textarea")).to_be_focused()
    expect(page.locator(GENERATE)).to_be_visible()  # Gradio fetches its buttons after its text boxes
    page.keyboard.type("a kite")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator(GENERATE)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(DONE)).to_be_visible()


def test_a_password_guards_every_route(page, serve):
    served = serve(password="open sesame")
    for path in (
        "config",
        "gradio_api/info",
        f"gradio_api/file={served.studio.history.data_dir}/history.sqlite",
    ):
        assert page.request.get(f"{served.url}{path}").status in (401, 403, 404)
    page.goto(served.url)
    page.get_by_label("username").fill("artist")
    page.get_by_label("password").fill("open sesame")
    page.get_by_role("button", name="Login").click()
    expect(page.locator(".stage.empty")).to_be_visible()


def test_only_pictures_are_served(page, serve):
    served = serve()
    page.goto(served.url)
    page.click(GENERATE)
    expect(page.locator(DONE)).to_be_visible()
    file = served.studio.history.recent(1)[0].file
    assert page.request.get(f"{served.url}gradio_api/file={file}").ok
    for path in (file.parents[2] / "history.sqlite", Path(__file__), Path("/etc/passwd"), "pyproject.toml"):
        assert page.request.get(f"{served.url}gradio_api/file={path}").status == 403


def drop(page: Page, file: Path) -> None:
    """Drop a file on the picture, as from a file manager."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
          return transfer;
        }""",
        [list(file.read_bytes()), file.name],
    )
    page.dispatch_event("#picture", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#picture", "drop", {"dataTransfer": transfer})
