"""Pictures are kept, found again, and survive crashes, damage and full disks."""

import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from studio import database
from studio.errors import SaveError
from studio.history import History
from studio.image import open_image, read_text, write_png
from studio.request import ImageRequest, ImageResult, Span

SPANS = (Span("queue", 0.0, 0.001), Span("step", 0.001, 0.5))


def result(prompt="a red house", seed=7, images=1, **changes) -> ImageResult:
    asked = ImageRequest(prompt, "fog", 12, 6.5, seed, "Euler a", 72, 64, images, **changes)
    pixels = np.random.default_rng(seed).integers(0, 255, (images, 64, 72, 3), np.uint8)
    return ImageResult(asked, pixels, tuple(range(seed, seed + images)), SPANS, "openvino bf16", "postcards")


def test_a_picture_and_all_of_its_settings_come_back(tmp_path):
    made = result(images=2)
    with History(tmp_path) as history:
        files = [history.keep(made, index) for index in range(2)]
    with History(tmp_path) as history:
        assert history.notices == ()
        newest, oldest = history.recent(10)
        assert [oldest.file, newest.file] == files
        assert np.array_equal(open_image(newest.file), made.images[1])
        assert newest.request == ImageRequest("a red house", "fog", 12, 6.5, 8, "Euler a", 72, 64, 1)
        assert (newest.engine, newest.model, newest.spans) == ("openvino bf16", "postcards", SPANS)
        assert history.get(newest.id) == history.find(newest.file) == newest


def test_the_start_image_is_kept_once_and_comes_back(tmp_path):
    start = np.full((64, 72, 3), 90, np.uint8)
    with History(tmp_path) as history:
        history.keep(result(image=start, strength=0.4), 0)
        history.keep(result(seed=8, image=start, strength=0.4), 0)
        first, second = history.recent(2)
        assert first.start_image == second.start_image
        assert np.array_equal(open_image(first.start_image), start)
        assert first.request.strength == 0.4
        assert "Denoising strength: 0.4, " in read_text(first.file)


def test_pictures_without_a_row_are_adopted_from_their_own_text(tmp_path):
    start = np.full((64, 72, 3), 90, np.uint8)
    with History(tmp_path) as history:
        history.keep(result("a sea, calm: blue\nNegative prompt: trap", image=start, strength=0.25), 0)
        kept = history.recent(1)[0]
    (tmp_path / "history.sqlite").unlink()
    with History(tmp_path) as history:
        (adopted,) = history.recent(5)
        assert "added" in history.notices[0]
        assert adopted.request == kept.request
        assert (adopted.file, adopted.start_image) == (kept.file, kept.start_image)
        assert (adopted.engine, adopted.model) == (kept.engine, kept.model)
    with History(tmp_path) as history:
        assert history.notices == ()


def test_a_damaged_database_is_set_aside_and_made_anew(tmp_path):
    with History(tmp_path) as history:
        for seed in range(3):
            history.keep(result(seed=seed), 0)
    (tmp_path / "history.sqlite").write_bytes(b"not a database " * 500)
    with History(tmp_path) as history:
        assert sorted(picture.request.seed for picture in history.recent(9)) == [0, 1, 2]
        assert "damaged" in history.notices[0]
    assert len(list(tmp_path.glob("history.damaged-*"))) == 1


def test_a_page_scribbled_over_is_noticed(tmp_path):
    with History(tmp_path) as history:
        for seed in range(40):
            history.keep(result(f"prompt {seed} " * 20, seed=seed), 0)
    database = tmp_path / "history.sqlite"
    data = bytearray(database.read_bytes())
    data[4096 * 2 : 4096 * 6] = b"\xff" * (4096 * 4)
    database.write_bytes(data)
    with History(tmp_path) as history:
        assert len(history.recent(100)) == 40
        assert "damaged" in history.notices[0]


def test_rows_whose_file_is_gone_are_passed_over(tmp_path):
    with History(tmp_path) as history:
        files = [history.keep(result(seed=seed), 0) for seed in range(5)]
        gone = history.find(files[3])
        files[3].unlink()
        assert [picture.request.seed for picture in history.recent(3)] == [4, 2, 1]
        assert history.get(gone.id) is None


def test_a_discarded_picture_is_moved_not_deleted(tmp_path):
    with History(tmp_path) as history:
        for _ in range(2):
            history.keep(result(), 0)
            place = history.discard(history.recent(1)[0])
            assert open_image(place).shape == (64, 72, 3)
        assert history.recent(5) == []
        assert len(list((tmp_path / "discarded").iterdir())) == 2
    with History(tmp_path) as history:
        assert history.recent(5) == []


def test_strangers_and_leftovers_in_the_folder_do_no_harm(tmp_path):
    folder = tmp_path / "pictures" / "2026-01-01"
    folder.mkdir(parents=True)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / ".half.png.part").write_bytes(b"x")
    shutil.copy(Path(database.__file__), folder / "code.png")
    with History(tmp_path) as history:
        assert history.recent(5) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "no-such-start"])
def test_a_strangers_picture_names_no_file_beyond_the_start_images(tmp_path, name):
    (tmp_path / "secret.png").touch()
    text = f"x\nSteps: 3, Sampler: Euler, Seed: 1, Init image hash: {name}"
    write_png(tmp_path / "pictures" / "2026-01-01" / "strange.png", np.zeros((8, 8, 3), np.uint8), text)
    with History(tmp_path) as history:
        (picture,) = history.recent(5)
        assert picture.start_image is None


def test_a_picture_that_another_process_just_saved_keeps_its_row(tmp_path):
    with History(tmp_path) as first:
        first.keep(result(), 0)
        (before,) = first.recent(1)
        first._adopt_one(before.file)
        assert first.recent(1) == [before]


def test_recent_looks_past_files_that_are_gone(tmp_path):
    with History(tmp_path) as history:
        for seed in range(7):
            history.keep(result(seed=seed), 0)
        for picture in history.recent(3):
            picture.file.unlink()
        assert [picture.request.seed for picture in history.recent(3)] == [3, 2, 1]
        assert [picture.request.seed for picture in history.recent(9)] == [3, 2, 1, 0]


def test_a_folder_that_cannot_be_written_is_said_and_the_studio_goes_on(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with History(tmp_path / "data") as history:
        assert "cannot be saved" in history.notices[0]
        assert history.recent(5) == []
        with pytest.raises(SaveError, match="could not be saved"):
            history.keep(result(), 0)


def test_kill_in_the_middle_of_saving_loses_no_picture(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from test_history import History, result\n"
        "history = History(Path(sys.argv[1])); print('open', flush=True)\n"
        "for seed in range(10**6): print(history.keep(result(seed=seed), 0), flush=True)"
    )
    tests = Path(__file__).parent
    command = [sys.executable, "-c", code, str(tmp_path), str(tests), str(tests.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [Path(process.stdout.readline().strip()) for _ in range(12)][1:]
        process.kill()
        told += [Path(line.strip()) for line in process.stdout]
    with History(tmp_path) as history:
        pictures = {picture.file for picture in history.recent(1000)}
        assert pictures >= set(told)
        assert pictures == set((tmp_path / "pictures").glob("*/*.png"))
        assert all(open_image(file).shape == (64, 72, 3) for file in pictures)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_and_nothing_saved_is_lost(small_disk):
    with History(small_disk) as history:
        kept = []
        with pytest.raises(SaveError) as caught:
            kept.extend(history.keep(result(seed=seed), 0) for seed in range(100))
        assert caught.value.hint
        assert 1 < len(kept) < 100
        assert [picture.file for picture in history.recent(100)] == kept[::-1]
        assert not list(small_disk.rglob("*.part"))
    with History(small_disk) as history:
        pictures = history.recent(100)
        assert {picture.file for picture in pictures} >= set(kept)
        assert all(open_image(picture.file).shape == (64, 72, 3) for picture in pictures)


def test_threads_share_it(tmp_path):
    with History(tmp_path) as history:

        def work(offset: int) -> None:
            for seed in range(8):
                history.keep(result(seed=offset + seed), 0)
                history.recent(3)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(history.recent(100)) == 32


def test_migrations_are_applied_once_and_in_order(tmp_path):
    with History(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "history.sqlite") as rows:
        assert rows.execute("PRAGMA user_version").fetchone()[0] == len(database.MIGRATIONS)
        assert rows.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
