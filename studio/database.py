"""The history's SQLite file: its schema, numbered migrations, and opening it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

# Applied in order; user_version counts those done. Never edit one that was released: add the next.
MIGRATIONS = (
    """
    CREATE TABLE pictures (
        id INTEGER PRIMARY KEY,
        file TEXT NOT NULL UNIQUE,      -- relative to the data folder
        made_at REAL NOT NULL,          -- seconds since 1970
        prompt TEXT NOT NULL,
        negative_prompt TEXT NOT NULL,
        steps INTEGER NOT NULL,
        guidance_scale REAL NOT NULL,
        seed INTEGER NOT NULL,
        sampler TEXT NOT NULL,
        width INTEGER,
        height INTEGER,
        strength REAL NOT NULL,
        start_image TEXT,               -- relative to the data folder; NULL for text to image
        engine TEXT NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        spans TEXT NOT NULL             -- JSON: [[stage, start, seconds], …]
    )
    """,
    "CREATE INDEX pictures_by_time ON pictures (made_at, id)",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, whole and with the newest schema.

    Raises sqlite3.OperationalError when it cannot be opened or written, another sqlite3.DatabaseError when
    it is damaged.
    """
    rows = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        rows.row_factory = sqlite3.Row
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("PRAGMA synchronous = NORMAL")
        damage = rows.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        _migrate(rows)
    except BaseException:
        rows.close()
        raise
    return rows


def _migrate(rows: sqlite3.Connection) -> None:
    with rows:
        rows.execute("BEGIN IMMEDIATE")  # a second studio waits here and then finds nothing to do
        done = rows.execute("PRAGMA user_version").fetchone()[0]
        for number, migration in enumerate(MIGRATIONS[done:], start=done + 1):
            rows.execute(migration)
            rows.execute(f"PRAGMA user_version = {number}")
