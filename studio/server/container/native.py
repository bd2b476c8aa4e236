"""Components that Triton's own backends serve, without Python between: a plan, or an ONNX file.

A container brings backends of its own for TensorRT and ONNX Runtime; the wheel's server has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

# Flavour → Triton's name of the platform, and of the file that it looks for in a version's folder.
PLATFORMS = {
    "tensorrt": ("tensorrt_plan", "model.plan"),
    "onnxruntime": ("onnxruntime_onnx", "model.onnx"),
}
# The pipelines send a text encoder one or two prompts at once, and either half of a VAE one picture.
BATCHES = {"text_encoder": (1, 2), "vae_encoder": (1, 1), "vae_decoder": (1, 1)}


def serve(repository: Repository, backends: Collection[str], models: Path) -> None:
    """Let Triton's own backends serve what they can of a written repository, each at its newest version."""
    for component in BATCHES:
        engine = pick(component, repository.engines.get(component, ()), backends)
        model, source = models / component, repository.sources / component
        if not source.is_dir():
            continue
        version = max(model.glob("[0-9]*"), key=lambda folder: int(folder.name))
        if engine is not None:
            write(model, version, engine, Path(repository.model_folder))
        elif not (version / "model.py").exists():
            _give_back(model, version, source)


def pick(component: str, engines: Sequence[Engine], backends: Collection[str]) -> Engine | None:
    """The engine to serve natively: the preferred one, where it takes whatever a pipeline may send."""
    if component not in BATCHES or not engines:
        return None
    engine, (low, high) = engines[0], BATCHES[component]
    takes_batches = engine.batch is None or (engine.batch[0] <= low and high <= engine.batch[1])
    takes_sizes = component == "text_encoder" or (engine.height is None and engine.width is None)
    has_backend = engine.flavour in PLATFORMS and engine.flavour in backends
    return engine if has_backend and takes_batches and takes_sizes else None


def write(model: Path, version: Path, engine: Engine, model_folder: Path) -> None:
    """Make the model folder ``model`` serve ``engine`` as its ``version``; the tensors stay the same."""
    platform, name = PLATFORMS[engine.flavour]
    path = model / "config.pbtxt"
    path.write_text(config(path.read_text(encoding="utf-8"), engine.flavour, platform), encoding="utf-8")
    (version / "model.py").unlink(missing_ok=True)
    source = model_folder / engine.file
    target = version / name
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)  # no second copy on disk
    except OSError:
        shutil.copyfile(source, target)


def _give_back(model: Path, version: Path, source: Path) -> None:
    """Let Python serve a component again whose version before was served without it."""
    shutil.copyfile(source / "config.pbtxt", model / "config.pbtxt")
    shutil.copyfile(source / "1" / "model.py", version / "model.py")
    for _, name in PLATFORMS.values():
        (version / name).unlink(missing_ok=True)


def config(python_config: str, flavour: str, platform: str) -> str:
    """The configuration of a Python model, changed to one of Triton's own backends."""
    rendered = text_format.Parse(python_config, model_config_pb2.ModelConfig())
    rendered.ClearField("parameters")
    rendered.ClearField("instance_group")
    rendered.backend = ""
    rendered.platform = platform
    rendered.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=1)
    if flavour == "tensorrt":
        rendered.optimization.cuda.graphs = True
    if rendered.name == "text_encoder":
        rendered.response_cache.enable = True  # the prompt that is drawn again costs nothing
    return str(text_format.MessageToString(rendered))
