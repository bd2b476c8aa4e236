"""How long work tells of itself: a sentence, and how far along it is."""

from __future__ import annotations

from collections.abc import Callable

# A short sentence, and the fraction done (0..1) or None where that is not known.
Report = Callable[[str, float | None], None]


def silent(message: str, fraction: float | None = None) -> None:
    """A Report that says nothing."""
