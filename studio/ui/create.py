"""The page: words on the left, the picture large beside them, what was made below."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from studio.generate import Studio
from studio.jobs import Jobs
from studio.ui import gallery
from studio.ui.actions import Actions, Outputs
from studio.ui.controls import (
    CUSTOM,
    Controls,
    sampler_input,
    seed_input,
    side,
    sizes,
    slider,
    start_input,
)
from studio.ui.engines import Engines, line
from triton_models.diffusion import fields

# Buttons inside our own HTML: data-do names the event, data-of what it is about.
# (gr.HTML knows its events by finding their names in this text.)
_EVENTS_OF_BUTTONS = """
const events = ['pick', 'start', 'reuse', 'discard', 'older', 'clear', 'restore', 'make'];
window.studio.listen(element, (name, of) => { if (events.includes(name)) trigger(name, {of}); }, watch);
"""
_OWNER_LAST = "(...values) => [...values.slice(0, -1), window.studio.owner]"


def create(studio: Studio, jobs: Jobs, page: gr.Blocks, engines: Engines | None = None) -> None:
    """Lay the page out inside ``page`` and connect it."""
    with gr.Row(elem_id="studio"):
        with gr.Column(elem_id="ask"):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="A violet house in the middle of the woods at sunset",
                lines=3,
                max_lines=10,
                autofocus=True,
                elem_id="prompt",
            )
            negative = gr.Textbox(
                label="Leave out", placeholder="clouds, trees", lines=1, max_lines=6, elem_id="negative"
            )
            with gr.Row(elem_id="buttons"):
                generate = gr.Button(
                    "Generate", variant="primary", elem_id="generate", scale=3, min_width=140
                )
                cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, scale=1, min_width=90)
            waiting = _html("waiting")
        with gr.Column(elem_id="canvas"):
            notice, picture, strip, times = (_html(name) for name in ("notice", "picture", "strip", "times"))
        with gr.Column(elem_id="settings"):
            controls = _settings(studio, prompt, negative)
            restore = gr.UploadButton(
                "Open settings from a picture…",
                file_types=["image"],
                size="sm",
                elem_id="restore",
                type="filepath",
            )
    drawn = gr.Textbox(visible="hidden")
    outputs = Outputs(picture, notice, times, strip, waiting, cancel, drawn, gr.State(gallery.PAGE))
    owner = gr.Textbox(visible=False)
    actions = Actions(studio, jobs, controls, outputs, engines)
    _connect(page, actions, controls, outputs, generate, restore, owner)


def engines_line(engines: Engines) -> None:
    """What is being made of engines, kept up to date."""
    said = _html("engines")
    gr.Timer(1.0).tick(
        lambda: line(engines.status), None, said, api_visibility="private", show_progress="hidden"
    )


def _html(name: str) -> gr.HTML:
    return gr.HTML(elem_id=name, js_on_load=_EVENTS_OF_BUTTONS, apply_default_css=False)


def _settings(studio: Studio, prompt: gr.Textbox, negative: gr.Textbox) -> Controls:
    presets = sizes(studio.model)
    start, start_file = start_input(), gr.File(visible="hidden", type="filepath")
    strength = slider(fields.STRENGTH, "Strength", 0.05, visible=False, elem_id="strength")
    with gr.Group(elem_id="size"):
        shape = gr.Radio([*presets, CUSTOM], value="Square", label="Size", elem_id="shape")
        with gr.Row():
            width = side("Width", studio.model.default_width)
            height = side("Height", studio.model.default_height)
    steps = slider(fields.STEPS, "Steps", 1, elem_id="steps")
    guidance = slider(fields.GUIDANCE, "Guidance", 0.5, elem_id="guidance")
    with gr.Row(elem_id="seeds"):
        seed = seed_input()
        keep = gr.Checkbox(False, label="Lock", min_width=60, scale=0, elem_id="keep")
        dice = gr.Button("⚄ Roll", min_width=60, scale=0, elem_id="dice")
    sampler = sampler_input()
    count = slider(fields.NUM_IMAGES, "Pictures at once", 1, elem_id="count")
    _sizes_follow(presets, shape, width, height)
    dice.click(
        None, None, [seed, keep], js="() => [String(crypto.getRandomValues(new Uint32Array(1))[0]), true]"
    )
    seed.input(None, seed, keep, js="(seed) => seed.trim() !== ''")
    return Controls(
        prompt,
        negative,
        start,
        start_file,
        strength,
        steps,
        guidance,
        seed,
        keep,
        sampler,
        width,
        height,
        count,
    )


def _sizes_follow(
    presets: dict[str, tuple[int, int]], shape: gr.Radio, width: gr.Number, height: gr.Number
) -> None:
    """The preset sets width and height; a width or height of no preset reads as custom."""
    table = json.dumps(presets)
    shape.input(
        None,
        [shape, width, height],
        [width, height],
        js=f"(name, width, height) => ({table})[name] ?? [width, height]",
    )
    named = (
        f"(width, height) => Object.entries({table})"
        f".find(([, size]) => size[0] === width && size[1] === height)?.[0] ?? '{CUSTOM}'"
    )
    gr.on([width.change, height.change], None, [width, height], shape, js=named)


def _connect(
    page: gr.Blocks,
    actions: Actions,
    controls: Controls,
    outputs: Outputs,
    generate: gr.Button,
    restore: gr.UploadButton,
    owner: gr.Textbox,
) -> None:
    inputs = list(controls.asked().values())
    written = [*controls.shown().values(), *outputs.__dict__.values()]
    quiet: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "concurrency_limit": None,
    }
    generate.click(
        actions.generate, [*inputs, owner], written, js=_OWNER_LAST, trigger_mode="multiple", **quiet
    )
    page.load(actions.arrive, owner, written, js=_OWNER_LAST, **quiet)
    at_once = {**quiet, "queue": False, "trigger_mode": "multiple"}
    outputs.cancel.click(actions.cancel, owner, None, js=_OWNER_LAST, **at_once)
    outputs.waiting.clear(actions.clear, owner, None, js=_OWNER_LAST, **at_once)
    for shown in (outputs.strip.pick, outputs.stage.reuse):
        shown(actions.pick, None, written, **quiet)
    outputs.stage.discard(actions.discard, None, written, **quiet)
    outputs.stage.start(actions.use_as_start, None, written, **quiet)
    outputs.strip.older(actions.older, outputs.shown, written, **quiet)
    carry: dict[str, Any] = {
        "inputs": controls.start,
        "outputs": controls.start_file,
        "js": "(start) => start",
    }
    controls.start.change(None, **carry)
    controls.start.upload(None, **carry).then(actions.opened, controls.start_file, written, **quiet)
    drawn = [outputs.drawn, controls.seed, controls.keep_seed]
    outputs.drawn.change(None, drawn, controls.seed, js="(drawn, seed, keep) => (keep ? seed : drawn)")
    outputs.stage.make(actions.make, None, written, **quiet)
    outputs.notice.restore(actions.restore, controls.start_file, written, **quiet)
    restore.upload(actions.restore, restore, written, **quiet)
    controls.start.change(
        None,
        controls.start,
        controls.strength,
        js="(start) => ({__type__: 'update', visible: start !== null})",
    )
    _drafts(page, controls)


def _drafts(page: gr.Blocks, controls: Controls) -> None:
    """Everything typed is kept in the browser as it is typed, and is there again after a reload."""
    inputs, names = list(controls.shown().values()), json.dumps(list(controls.shown()))
    gr.on(
        [component.change for component in inputs],
        None,
        inputs,
        None,
        js=f"(...values) => window.studio.keepDraft({names}, values)",
    )
    page.load(None, inputs, inputs, js=f"(...values) => window.studio.draft({names}, values)")
