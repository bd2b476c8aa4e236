"""The figures: the studio against diffusers, in turn in one run, and where the studio's own time goes."""

from __future__ import annotations

import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from studio.bench.memory import peak_of
from studio.engines import cpu
from studio.errors import StudioError
from studio.generate import Studio
from studio.prepare import threads
from studio.request import ImageRequest, ImageResult, Span
from studio.settings import CHECKOUT, Settings
from studio.start import open_studio
from studio.terminal import Terminal

PROMPT = "a red house by a lake under tall mountains at sunset"
SAMPLER = "DPM++ 2M Karras"
GUIDANCE_SCALE = 7.0
ENGINE_STAGES = ("text_encode", "image_encode", "step", "decode")
PAGE_SECONDS = 120.0
VERSIONS = ("torch", "diffusers", "onnxruntime", "openvino", "nvidia-pytriton")


def measure(settings: Settings, steps: int, rounds: int, terminal: Terminal) -> dict[str, Any]:
    """All figures; times in seconds, memory in bytes."""
    request = ImageRequest(PROMPT, steps=steps, sampler=SAMPLER, guidance_scale=GUIDANCE_SCALE, seed=1)
    wanted = [settings.engine, *([cpu.ONNX_RUNTIME] if settings.engine == "auto" else [])]
    studios: dict[str, Any] = {}
    folder = Path()
    with _diffusers(settings) as diffusers:
        for engine in wanted:
            terminal.line(f"Measuring the studio with --engine {engine}, and diffusers, in turn")
            with open_studio(replace(settings, engine=engine), terminal) as opened:
                folder = opened.ready.folder
                figures = _against(diffusers, opened.studio, request, rounds)
            studios[figures["engine"]] = figures
    terminal.line("Measuring each engine by itself")
    parts = _parts(settings, folder, 2 * rounds)
    terminal.line("Measuring the start")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "machine": _machine(settings),
        "request": {"steps": steps, "sampler": SAMPLER, "guidance_scale": GUIDANCE_SCALE, "rounds": rounds},
        "studio": studios,
        "parts": parts,
        "page_seconds": _time_to_page(settings),
    }


class Diffusers:
    """diffusers, drawing in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._answer()  # it is ready

    def draw(self, request: ImageRequest) -> float:
        """Draw ``request``; returns how long that took."""
        asked = {
            "prompt": request.prompt,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "seed": request.seed,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise StudioError("diffusers ended before it had drawn.", hint="What it said stands above.")
        return line


@contextmanager
def _diffusers(settings: Settings) -> Iterator[Diffusers]:
    command = [sys.executable, "-m", "studio.bench.baseline", settings.model, str(threads(settings))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=CHECKOUT, **pipes) as process:
        try:
            yield Diffusers(process)
        finally:
            process.kill()


def _against(diffusers: Diffusers, studio: Studio, request: ImageRequest, rounds: int) -> dict[str, Any]:
    """One engine of ours and diffusers, picture by picture in turn."""
    ours: list[ImageResult] = []
    theirs: list[float] = []
    draw(studio, request)
    diffusers.draw(replace(request, steps=2))
    for number in range(rounds):
        asked = replace(request, seed=request.seed + number)
        ours.append(draw(studio, asked))
        theirs.append(diffusers.draw(asked))
    # Apart from the timed pictures, because looking takes time too.
    with peak_of(os.getpid()) as whole, peak_of(diffusers.process.pid) as part:
        draw(studio, request)
        diffusers.draw(request)
    seconds = statistics.median(result.seconds for result in ours)
    between = [gap for result in ours for gap in gaps(result.spans)]
    return {
        "engine": ours[0].engine,
        "seconds": seconds,
        "diffusers_seconds": statistics.median(theirs),
        "ratio": seconds / statistics.median(theirs),
        "over_engines": statistics.median(result.seconds / engine_seconds(result) for result in ours),
        "gap_seconds": statistics.median(between),
        "worst_gap_seconds": max(between),
        "stages": stages(ours),
        "peak_bytes": whole.bytes - part.bytes,  # diffusers is a child of ours
        "diffusers_peak_bytes": part.bytes,
    }


def draw(studio: Studio, request: ImageRequest) -> ImageResult:
    """The last thing that the studio says of a request."""
    *_, last = studio.generate(request)
    assert isinstance(last, ImageResult)
    return last


def engine_seconds(result: ImageResult) -> float:
    """How long the engines worked on a picture."""
    return sum(span.seconds for span in result.spans if span.stage in ENGINE_STAGES)


def gaps(spans: Sequence[Span]) -> list[float]:
    """From the end of each step to the beginning of the next."""
    steps = sorted((span for span in spans if span.stage == "step"), key=lambda span: span.start)
    return [after.start - before.start - before.seconds for before, after in itertools.pairwise(steps)]


def stages(results: Sequence[ImageResult]) -> dict[str, float]:
    """The median time of each stage of a picture; the steps of one picture are added up."""
    names = dict.fromkeys(span.stage for result in results for span in result.spans)
    return {
        name: statistics.median(
            sum(span.seconds for span in result.spans if span.stage == name) for result in results
        )
        for name in names
    }


def _parts(settings: Settings, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    words = ["studio.bench.parts", settings.model, str(folder), str(threads(settings)), str(rounds)]
    done = subprocess.run([sys.executable, "-m", *words], cwd=CHECKOUT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise StudioError("The engines could not be measured.", hint="What was said stands above.")
    figures: dict[str, dict[str, float]] = json.loads(done.stdout)
    return figures


def _time_to_page(settings: Settings) -> float:
    """From `python launcher.py` to a page that answers, everything being in the cache."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    where = ["--data", str(settings.data_dir), "--cache", str(settings.cache_dir), "--model", settings.model]
    command = [sys.executable, str(CHECKOUT / "launcher.py"), "--no-browser", "--port", str(port), *where]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and time.perf_counter() - began < PAGE_SECONDS:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PAGE_SECONDS) as answer:
                    answer.read()
                return time.perf_counter() - began
            except OSError:
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    raise StudioError("The page did not come up.", hint="Run `python launcher.py` to see why.")


def _machine(settings: Settings) -> dict[str, Any]:
    return {
        "cpu": cpu.model_name(),
        "cores": cpu.physical_cores(),
        "threads": threads(settings),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }
