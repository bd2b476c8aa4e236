"""The figures of a measurement as text, in Markdown, so that they can stand in a document as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(figures: Mapping[str, Any]) -> str:
    """Everything that was measured, with machine and date."""
    machine, request = figures["machine"], figures["request"]
    studios = list(figures["studio"].values())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    stages = ", ".join(f"{name.lower()} {seconds:.1f}" for name, seconds in figures["start_stages"].items())
    paragraphs = (
        f"{figures['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.0f} GB. Python {machine['python']}, {versions}.",
        f"{request['steps']} steps of {request['sampler']}, guidance {request['guidance_scale']:g}, "
        f"medians of {request['rounds']} pictures drawn in turn.",
        _rows(("", *(one["engine"] for one in studios)), _against(studios)),
        _rows(("one call", *_engines(figures["parts"])), _parts(figures["parts"])),
        f"Second start, to a page that answers: {figures['page_seconds']:.1f} s ({stages}).",
    )
    return "\n\n".join(paragraphs)


def _against(studios: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    def row(name: str, form: str, key: str, scale: float = 1.0) -> list[str]:
        return [name, *(form.format(one[key] * scale) for one in studios)]

    def stage(name: str) -> list[str]:
        return [
            f"of it {name.replace('_', ' ')}",
            *(f"{one['stages'].get(name, 0) * 1e3:.0f} ms" for one in studios),
        ]

    return [
        row("the studio, end to end", "{:.3f} s", "seconds"),
        row("diffusers, in turn with it", "{:.3f} s", "diffusers_seconds"),
        row("ratio", "{:.2f}", "ratio"),
        row("end to end over the sum of engine times", "{:.3f}", "over_engines"),
        row("gap between steps, median", "{:.2f} ms", "gap_seconds", 1e3),
        row("gap between steps, longest", "{:.2f} ms", "worst_gap_seconds", 1e3),
        *(stage(name) for name in next(iter(studios))["stages"]),
        row("peak memory, studio and server", "{:.2f} GB", "peak_bytes", 2**-30),
        row("peak memory, diffusers", "{:.2f} GB", "diffusers_peak_bytes", 2**-30),
    ]


def _engines(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(next(iter(parts.values())))


def _parts(parts: Mapping[str, Mapping[str, float]]) -> list[Sequence[str]]:
    return [
        [name.replace("_", " "), *(f"{times[engine] * 1e3:.1f} ms" for engine in _engines(parts))]
        for name, times in parts.items()
    ]


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
