"""Keeps the libraries' own progress bars and remarks away from the artist."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers, transformers, and torch's exporter with its tracer; errors still show."""
    import diffusers.utils.logging
    import transformers.utils.logging

    bars: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    levels = {name: logging.getLogger(name).level for name in ("diffusers", "transformers", "torch.onnx")}
    for library in bars:
        library.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for library in bars:
            library.enable_progress_bar()
