"""triton_models/README.md, every config.pbtxt, fields.py and the exported graphs say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from studio.engines.components import COMPONENTS
from studio.server.supervise import Supervisor
from triton_models.diffusion import fields
from triton_models.diffusion.samplers import NAMES

MODELS = Path(fields.__file__).parents[1]
README = (MODELS / "README.md").read_text(encoding="utf-8")
CONFIGS = sorted(MODELS.glob("*/config.pbtxt"))
Row = dict[str, str]


def config(model: str) -> Any:
    return text_format.Parse((MODELS / model / "config.pbtxt").read_text(), ModelConfig())


def shape(written: str) -> list[int]:
    return [int(dim) if dim.isdigit() else -1 for dim in written.strip("[]").split(", ")]


def tables(model: str) -> tuple[dict[str, Row], dict[str, Row]]:
    """The inputs and outputs that the README gives ``model``, by name."""
    inputs: dict[str, Row] = {}
    outputs: dict[str, Row] = {}
    for heading, body in re.findall(r"^### (`.*)\n([\s\S]*?)(?=^##|\Z)", README, re.MULTILINE):
        if f"`{model}`" not in heading:
            continue
        for row in rows(body):
            (inputs if "default" in row else outputs)[row.get("input") or row["output"]] = row
    if "image_to_image" in model:
        base_inputs, outputs = tables(model.replace("image_to_image", "text_to_image"))
        inputs = {**base_inputs, **inputs}
    if model.startswith("pipeline") and not model.endswith("_stream"):
        outputs = {name: row for name, row in outputs.items() if "`_stream` only" not in row["meaning"]}
    return inputs, outputs


def rows(markdown: str) -> Iterator[Row]:
    columns: list[str] = []
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells
        elif not set(line) <= set("|-"):
            yield dict(zip(columns, [cells[0].strip("`"), *cells[1:]], strict=True))


def described(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {t.name: (DataType.Name(t.data_type).removeprefix("TYPE_"), list(t.dims)) for t in tensors}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_readme_describes_every_tensor(path: Path) -> None:
    model = config(path.parent.name)
    inputs, outputs = tables(model.name)

    for tensors, table in ((model.input, inputs), (model.output, outputs)):
        assert described(tensors) == {name: (row["type"], shape(row["shape"])) for name, row in table.items()}
    assert {t.name for t in model.input if not t.optional} == {
        name for name, row in inputs.items() if row["default"] == "required"
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_config_is_complete(path: Path) -> None:
    model = config(path.parent.name)

    assert model.name == path.parent.name
    assert model.backend == "python"
    assert model.max_batch_size == 0
    (group,) = model.instance_group
    assert (group.count, group.kind) == (1, ModelInstanceGroup.KIND_CPU)
    streams = model.name == "denoiser" or model.name.endswith("_stream")
    assert model.model_transaction_policy.decoupled == streams
    assert (path.parent / "1" / "model.py").is_file()


@pytest.mark.parametrize("kind", ["text_to_image", "image_to_image"])
def test_streaming_twin_differs_by_its_steps_alone(kind: str) -> None:
    plain, streaming = config(f"pipeline_{kind}"), config(f"pipeline_{kind}_stream")

    assert described(plain.input) == described(streaming.input)
    assert set(described(streaming.output)) - set(described(plain.output)) == {"step", "preview"}


@pytest.mark.parametrize(
    ("model", "accepted"),
    [
        ("pipeline_text_to_image", fields.TEXT_TO_IMAGE),
        ("pipeline_image_to_image", fields.IMAGE_TO_IMAGE),
    ],
)
def test_pipeline_takes_the_fields(model: str, accepted: tuple[fields.Field, ...]) -> None:
    given = {tensor.name: DataType.Name(tensor.data_type) for tensor in config(model).input}

    assert given == {field.name: field.dtype for field in accepted}


@pytest.mark.parametrize("field", fields.IMAGE_TO_IMAGE, ids=lambda field: field.name)
def test_readme_gives_ranges_and_defaults(field: fields.Field) -> None:
    row = tables("pipeline_image_to_image")[0][field.name]

    if field.low is not None and field.high is not None:
        bounds = [
            f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in (field.low, field.high)
        ]
        assert row["range"].split(",")[0] == " to ".join(bounds)
    if field.default is not None:
        shown = f'"{field.default}"' if isinstance(field.default, str) else f"{field.default:g}"
        assert row["default"] == shown
    if field in (fields.PROMPT, fields.NEGATIVE_PROMPT):
        assert str(fields.MAX_PROMPT_BYTES) in row["range"]


def test_readme_lists_the_samplers() -> None:
    listed = re.search(r"^Samplers: ([\s\S]*?)\.$", README, re.MULTILINE)

    assert listed is not None
    assert tuple(re.findall(r"`(.*?)`", listed[1])) == NAMES


GRAPHS = [
    component for component in COMPONENTS if component.name != "denoiser"
]  # it is a loop around its graph


@pytest.mark.parametrize("component", GRAPHS, ids=lambda component: component.name)
def test_component_has_its_graphs_tensors(component: Any) -> None:
    model = config(component.name)
    types = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}

    for tensors, specs in ((model.input, component.inputs), (model.output, component.outputs)):
        for tensor, (name, (dtype, dims)) in zip(specs, described(tensors).items(), strict=True):
            assert (name, dtype, len(dims)) == (tensor.name, types[tensor.dtype], len(tensor.dims))
            assert all(dim in (-1, 77) or dim == exact for dim, exact in zip(dims, tensor.dims, strict=True))


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "example", re.findall(r"```python\n([\s\S]*?)```", README), ids=["plain", "streaming"]
)
def test_examples_run(example: str, studio_server: Supervisor) -> None:
    names: dict[str, Any] = {}
    exec(example.replace("localhost:8001", studio_server.endpoint.address), names)

    assert names["picture"].shape == (256, 256, 3)
    names["client"].close()
