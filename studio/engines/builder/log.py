"""TensorRT's log: kept on stderr, and what its errors mean to a person."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

# What TensorRT's log says, and what a person is told; the first that fits counts.
SENTENCES = (
    (
        ("outofmemory", "out of memory", "insufficient memory"),
        "The GPU has too little free memory for this build.",
    ),
    (("no space left",), "The disk is full."),
    (
        ("no importer registered for op", "unsupportednode"),
        "This checkpoint uses an operation that TensorRT does not know.",
    ),
    (
        ("failed to parse", "failed to import", "invalid node", "could not parse"),
        "TensorRT cannot read this ONNX file.",
    ),
    (
        ("driver version is insufficient", "error: 35"),
        "The NVIDIA driver is too old for this TensorRT, or missing.",
    ),
    (("no cuda-capable device", "error: 100"), "There is no GPU to build on."),
    (
        ("unspecified launch failure", "device-side assert", "device is lost", "error: 719"),
        "The GPU failed during the build.",
    ),
)


class Failure(Exception):
    """The build cannot go on; the message is a sentence for a person."""


class Cancelled(Exception):
    """The build was asked to stop."""


def make_logger(trt: Any, errors: list[str]) -> Any:
    """A TensorRT logger that writes to stderr and collects errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.Severity.VERBOSE:
                return
            name = str(severity).rsplit(".", 1)[-1]
            if name in ("ERROR", "INTERNAL_ERROR"):
                errors.append(message)
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}: {message}\n")
            sys.stderr.flush()

    return Logger()


def out_of_memory(errors: Sequence[str]) -> bool:
    """Whether the build failed for want of the GPU's memory."""
    said = " ".join(errors).lower()
    return any(words in said for words in SENTENCES[0][0])


def sentence(errors: Sequence[str], otherwise: str) -> str:
    """What the log's errors mean to a person."""
    said = " ".join(errors).lower()
    for patterns, meaning in SENTENCES:
        if any(pattern in said for pattern in patterns):
            return meaning
    return otherwise
