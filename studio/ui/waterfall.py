"""Where the time went: the stages of one request as a waterfall, in plain HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from studio.request import Span

# What the studio calls a stage, and what the artist reads.
NAMES = {
    "queue": "Waiting",
    "restart": "Restarting",
    "text_encode": "Reading words",
    "image_encode": "Reading picture",
    "step": "Steps",
    "decode": "Developing",
    "transfer": "Transfer",
    "save": "Saving",
}


def waterfall(spans: Sequence[Span]) -> str:
    """A table with one lane per stage; every step is a bar of its own. Empty without spans."""
    total = max((span.start + span.seconds for span in spans), default=0.0)
    if total <= 0:
        return ""
    lanes = "".join(_lane(stage, list(lane), total) for stage, lane in _by_stage(spans))
    return (
        '<details class="waterfall" open><summary><span>Where the time went</span>'
        f"<b>{escape(summary(spans))}</b></summary>"
        f'<table><caption class="unseen">Time per stage</caption><tbody>{lanes}</tbody></table></details>'
    )


def summary(spans: Sequence[Span]) -> str:
    """One line, such as ``0.92 s · 20 steps at 25.1 it/s``."""
    total = max((span.start + span.seconds for span in spans), default=0.0)
    steps = [span for span in spans if span.stage == "step"]
    line = seconds(total)
    if steps:
        took = max(span.start + span.seconds for span in steps) - steps[0].start
        rate = f" at {len(steps) / took:.1f} it/s" if took > 0 else ""
        line += f" · {len(steps)} step{'s' if len(steps) > 1 else ''}{rate}"
    return line


def seconds(value: float) -> str:
    """A duration as a person reads it: ``4.1 ms``, ``0.92 s``, ``2 min 05 s``."""
    if value < 0.1:
        return f"{value * 1000:.1f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60):02d} s"


def _by_stage(spans: Iterable[Span]) -> Iterable[tuple[str, Iterable[Span]]]:
    order = list(NAMES)
    known = sorted(
        spans, key=lambda span: (order.index(span.stage) if span.stage in order else 99, span.start)
    )
    return groupby(known, key=lambda span: span.stage)


def _lane(stage: str, spans: list[Span], total: float) -> str:
    bars = "".join(_bar(span, number, len(spans), total) for number, span in enumerate(spans, 1))
    took = sum(span.seconds for span in spans)
    name = escape(NAMES.get(stage, stage.replace("_", " ").capitalize()))
    return (
        f'<tr class="lane-{escape(stage)}"><th scope="row">{name}</th>'
        f'<td class="lane">{bars}</td><td class="took">{seconds(took)}</td></tr>'
    )


def _bar(span: Span, number: int, count: int, total: float) -> str:
    left, width = 100 * span.start / total, 100 * span.seconds / total
    title = (
        f"Step {number} of {count}: {seconds(span.seconds)}"
        if span.stage == "step"
        else seconds(span.seconds)
    )
    return f'<i style="left:{left:.2f}%;width:{width:.2f}%" title="{title}"></i>'
