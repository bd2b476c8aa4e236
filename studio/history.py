"""Every picture that was made, with all of its settings: a folder of PNGs and an SQLite index of it.

The PNG is written first and carries its settings as text, the row comes after. So a crash between the
two loses nothing: at the next start, pictures without a row are adopted from their own text, and a
damaged index is set aside and made anew the same way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from studio import __version__, infotext
from studio.database import connect
from studio.errors import RequestError, SaveError
from studio.image import read_text, write_png
from studio.request import ImageRequest, ImageResult, Pixels, Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """One picture of the history."""

    id: int
    file: Path
    made_at: float
    request: ImageRequest  # with the picture's own seed, and without the start image's pixels
    start_image: Path | None  # while its file is there
    engine: str
    model: str
    version: str
    spans: tuple[Span, ...]


class History:
    """The pictures under ``data_dir``. Thread safe; a context manager."""

    def __init__(self, data_dir: Path) -> None:
        """Open it, bring it up to date and adopt pictures without a row. ``notices`` says what was mended."""
        self.data_dir = data_dir
        self.pictures_dir = data_dir / "pictures"
        self.starts_dir = data_dir / "starts"
        self.notices: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._rows = self._open()
        self._adopt()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the database back."""
        with self._lock:
            self._rows.close()

    def keep(self, result: ImageResult, index: int) -> Path:
        """Save picture ``index`` of a result with its settings and note it. Raises SaveError."""
        seed, now = result.seeds[index], time.time()
        request = replace(result.request, seed=seed, num_images=1)
        with self._lock:
            start = self._keep_start(request.image)
            extras = {
                "Model": result.model,
                "Init image hash": start.stem if start else "",
                "Engine": result.engine,
                "Version": f"Triton Studio {__version__}",
            }
            file = self._free_name(request, now)
            write_png(file, result.images[index], infotext.write(request, seed=seed, extras=extras))
            picture = Picture(
                0, file, now, request, start, result.engine, result.model, __version__, result.spans
            )
            try:
                self._insert(picture)
            except sqlite3.Error as error:
                raise SaveError(
                    f"The picture was saved as {file}, but could not be noted in the history: {error}.",
                    hint="It is added at the next start of the studio.",
                ) from error
        return file

    def recent(self, limit: int) -> list[Picture]:
        """The newest pictures whose files are there, newest first."""
        found: list[Picture] = []
        made_at, row_id = float("inf"), 0
        while len(found) < limit:
            with self._lock:
                rows = self._rows.execute(
                    "SELECT * FROM pictures WHERE (made_at, id) < (?, ?)"
                    " ORDER BY made_at DESC, id DESC LIMIT ?",
                    (made_at, row_id, limit),
                ).fetchall()
            if not rows:
                break
            found.extend(picture for row in rows if os.path.exists((picture := self._picture(row)).file))
            made_at, row_id = rows[-1]["made_at"], rows[-1]["id"]
        return found[:limit]

    def get(self, picture_id: int) -> Picture | None:
        """The picture of that row, or None when the row or its file is gone."""
        return self._one("id = ?", picture_id)

    def find(self, file: Path) -> Picture | None:
        """The picture in that file, or None."""
        return self._one("file = ?", self._relative(file))

    def start(self, name: str) -> Path | None:
        """The start image of that name (letters and digits), when it is still there."""
        file = self.starts_dir / f"{name}.png"
        return file if name.isalnum() and os.path.exists(file) else None

    def discard(self, picture: Picture) -> Path:
        """Move a picture's file to the ``discarded`` folder and forget its row; returns the new place.

        Raises SaveError. Moved back under ``pictures``, it is adopted again at the next start.
        """
        place = self.data_dir / "discarded" / picture.file.name
        with self._lock:
            try:
                place.parent.mkdir(exist_ok=True)
                while place.exists():
                    place = place.with_stem(f"{place.stem}-2")
                picture.file.rename(place)
                with self._rows:
                    self._rows.execute("DELETE FROM pictures WHERE id = ?", (picture.id,))
            except (OSError, sqlite3.Error) as error:
                raise SaveError(f"The picture could not be put aside: {error}.") from error
        return place

    def _one(self, condition: str, value: object) -> Picture | None:
        with self._lock:
            row = self._rows.execute(f"SELECT * FROM pictures WHERE {condition}", (value,)).fetchone()
        picture = self._picture(row) if row else None
        return picture if picture and os.path.exists(picture.file) else None

    def _open(self) -> sqlite3.Connection:
        path = self.data_dir / "history.sqlite"
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            return connect(path)
        except (OSError, sqlite3.OperationalError) as error:
            logger.warning("The history cannot be written: %s", error)
            self._notice(
                f"Pictures cannot be saved in {self.data_dir} ({error}). They are shown, and lost when the"
                " page is left: save them from the page, or choose another folder with STUDIO_DATA."
            )
            return connect(Path(":memory:"))
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"history.damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite")
            logger.warning("The history is damaged (%s); set aside as %s", error, aside)
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._notice(
                f"The history was damaged. It was made anew from the pictures; the old file is {aside}."
            )
            return connect(path)

    def _adopt(self) -> None:
        """Note every picture that has no row; drop what a crash left half-written."""
        known = {row["file"] for row in self._rows.execute("SELECT file FROM pictures")}
        adopted = 0
        for file in sorted(self.pictures_dir.glob("*/*.png")):
            if file.name.startswith(".") or self._relative(file) in known:
                continue
            adopted += self._adopt_one(file)
        for part in self.pictures_dir.glob("*/.*.part"):
            if time.time() - part.stat().st_mtime > 60:
                part.unlink(missing_ok=True)
        if adopted:
            self._notice(f"{adopted} picture(s) that the history did not know were added to it.")

    def _adopt_one(self, file: Path) -> bool:
        try:
            text = read_text(file)
            if text is None:
                return False
            recipe = infotext.read(text)
            picture = Picture(
                id=0,
                file=file,
                made_at=file.stat().st_mtime,
                request=recipe.request,
                start_image=self.start(recipe.pairs.get("Init image hash", "")),
                engine=recipe.pairs.get("Engine", ""),
                model=recipe.pairs.get("Model", ""),
                version=recipe.pairs.get("Version", "").removeprefix("Triton Studio "),
                spans=(),
            )
            self._insert(picture, "IGNORE")  # another process may have just saved it
        except (RequestError, OSError, ValueError, sqlite3.Error) as error:
            logger.warning("%s could not be added to the history: %s", file, error)
            return False
        return True

    def _insert(self, picture: Picture, instead: str = "REPLACE") -> None:
        request = picture.request
        row: dict[str, Any] = {
            "file": self._relative(picture.file),
            "made_at": picture.made_at,
            **{
                name: getattr(request, name)
                for name in ("prompt", "negative_prompt", "steps", "guidance_scale", "seed", "sampler")
            },
            "width": request.width,
            "height": request.height,
            "strength": request.strength,
            "start_image": self._relative(picture.start_image) if picture.start_image else None,
            "engine": picture.engine,
            "model": picture.model,
            "version": picture.version,
            "spans": json.dumps(
                [[span.stage, round(span.start, 6), round(span.seconds, 6)] for span in picture.spans]
            ),
        }
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        with self._rows:
            self._rows.execute(f"INSERT OR {instead} INTO pictures ({names}) VALUES ({values})", row)

    def _picture(self, row: sqlite3.Row) -> Picture:
        request = ImageRequest(
            **{
                name: row[name]
                for name in (
                    "prompt",
                    "negative_prompt",
                    "steps",
                    "guidance_scale",
                    "seed",
                    "sampler",
                    "width",
                    "height",
                    "strength",
                )
            }
        )
        return Picture(
            id=row["id"],
            file=self.data_dir / row["file"],
            made_at=row["made_at"],
            request=request,
            start_image=self.start(Path(row["start_image"] or "").stem),
            engine=row["engine"],
            model=row["model"],
            version=row["version"],
            spans=tuple(Span(*span) for span in json.loads(row["spans"])),
        )

    def _keep_start(self, image: Pixels | None) -> Path | None:
        """The start image's own file, named by its content; written once."""
        if image is None:
            return None
        digest = hashlib.sha256(
            f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
        ).hexdigest()[:16]
        file = self.starts_dir / f"{digest}.png"
        if not os.path.exists(file):
            write_png(file, image)
        return file

    def _free_name(self, request: ImageRequest, now: float) -> Path:
        """A name that says when and what: ``2026-11-20/193015-a-red-house-42.png``."""
        made = time.localtime(now)
        words = "-".join(re.findall(r"\w+", request.prompt.lower()))[:40].strip("-")
        stem = "-".join(filter(None, (time.strftime("%H%M%S", made), words, str(request.seed))))
        folder = self.pictures_dir / time.strftime("%Y-%m-%d", made)
        file, count = folder / f"{stem}.png", 1
        while os.path.exists(file):
            count += 1
            file = folder / f"{stem}-{count}.png"
        return file

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.data_dir).as_posix()

    def _notice(self, sentence: str) -> None:
        self.notices = (*self.notices, sentence)
