"""Build one TensorRT or TensorRT-RTX engine from an ONNX file.

Progress and the outcome are JSON lines on stdout; TensorRT's log goes to stderr. Exit status: 0 built,
1 failed, 3 cancelled.

Example, SD 1.5's denoiser at 512 x 512 with guidance:

  python -m studio.engines.builder --flavour tensorrt --precision fp16 \\
    --onnx denoiser.onnx --plan denoiser.plan --workspace 8192 --timing-cache timings \\
    --shape state=5x1x4x64x64 --shape embeddings=2x77x768 --shape guidance=1x2 --shape noise=1x4x64x64
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from studio.engines.builder.build import build
from studio.engines.builder.log import Cancelled, Failure
from studio.engines.builder.progress import Progress, json_lines

FAILED, CANCELLED = 1, 3
SECONDS_TO_CANCEL = 3.0
SECONDS_BETWEEN_BEATS = 1.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The order: what to build, for what, and where to put it."""
    parser = argparse.ArgumentParser(
        prog="python -m studio.engines.builder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", type=Path, required=True, help="the graph; external weights lie beside it")
    add("--plan", type=Path, required=True, help="the engine to write")
    add("--flavour", choices=("tensorrt", "tensorrt-rtx"), default="tensorrt")
    add(
        "--precision",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="only TensorRT 8 needs to be told",
    )
    add(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=SHAPE[:SHAPE:SHAPE]",
        help="an input's shape such as latents=1x4x64x64, or its smallest, best and largest",
    )
    add(
        "--compute",
        default="",
        metavar="8.9",
        help="build for another compute capability (TensorRT-RTX only)",
    )
    add("--level", type=int, choices=range(6), default=3, help="optimization level; higher builds longer")
    add("--workspace", type=int, default=0, metavar="MIB", help="scratch memory; 0 leaves it to TensorRT")
    add("--timing-cache", type=Path, help="kernel timings to use and extend")
    add(
        "--refit",
        action="store_true",
        help="allow identical refitting of the weights (TensorRT 10 and newer)",
    )
    add(
        "--attached",
        action="store_true",
        help="cancel when stdin ends: a studio that dies takes its builder along",
    )
    return parser.parse_args(argv)


def _shape(text: str) -> tuple[str, tuple[tuple[int, ...], ...]]:
    name, _, given = text.partition("=")
    shapes = tuple(tuple(map(int, shape.split("x"))) for shape in given.split(":"))
    if len(shapes) not in (1, 3) or len({len(shape) for shape in shapes}) != 1:
        raise ValueError(text)
    return name, shapes * 3 if len(shapes) == 1 else shapes


def cancel_at_end_of_stdin(progress: Progress) -> None:
    """Wait for stdin to end, ask TensorRT to stop, and leave at once if it does not."""
    while os.read(0, 1):  # not sys.stdin: Python aborts at exit when a thread holds it
        pass
    progress.cancelled.set()
    threading.Event().wait(SECONDS_TO_CANCEL)
    os._exit(CANCELLED)


def beat(progress: Progress) -> None:
    """Tell now and then that the build goes on."""
    while not progress.cancelled.wait(SECONDS_BETWEEN_BEATS):
        progress.beat()


def main() -> int:
    """Build, and tell how it went."""
    order = arguments()
    tell = json_lines(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # whatever libraries print must not mix with the JSON lines
    progress = Progress(order.flavour, tell)
    threading.Thread(target=beat, args=(progress,), daemon=True).start()
    if order.attached:
        threading.Thread(target=cancel_at_end_of_stdin, args=(progress,), daemon=True).start()
    try:
        tell(build(order, progress))
    except Cancelled:
        return CANCELLED
    except Failure as failure:
        tell({"event": "failed", "what": str(failure)})
        return FAILED
    except OSError as error:
        tell({"event": "failed", "what": f"The engine could not be written: {error.strerror or error}."})
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
