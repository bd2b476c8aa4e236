"""The two files through which the studio tells the models what to run.

``model.json`` (one per exported checkpoint) says what the checkpoint is; ``engines.json`` (one per
component, beside its ``model.py``) lists the engines that can run it, the preferred one first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Latent slots that a sampler's table may use: the latents and up to four earlier tensors.
STATE_SLOTS = 5


@dataclass(frozen=True)
class ModelInfo:
    """What the pipelines need to know of an exported checkpoint."""

    name: str
    family: str  # "sd1" or "sd2"
    digest: str  # of the checkpoint's content
    prediction_type: str  # "epsilon" or "v_prediction"
    beta_start: float
    beta_end: float
    beta_schedule: str  # "linear", "scaled_linear" or "squaredcos_cap_v2"
    train_timesteps: int
    timestep_spacing: str  # "leading", "trailing" or "linspace"; empty where the checkpoint states none
    steps_offset: int
    max_tokens: int
    embedding_width: int
    latent_channels: int
    vae_scale_factor: int  # pixels per latent
    default_width: int
    default_height: int
    preview_factors: list[list[float]]  # [latent_channels + 1, 3]: latents (and 1) to RGB in 0..1
    components: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # name → {"sha256": …, "relative_error": …}

    @staticmethod
    def load(folder: Path) -> ModelInfo:
        """Read ``model.json`` in ``folder``."""
        return ModelInfo(**json.loads((folder / "model.json").read_text(encoding="utf-8")))

    def save(self, folder: Path) -> None:
        """Write ``model.json`` into ``folder``."""
        (folder / "model.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Engine:
    """One way to run a component.

    ``batch``, ``height`` and ``width`` are inclusive ranges, in images and latents; None admits all.
    """

    flavour: str  # "onnxruntime", "openvino", "tensorrt" or "tensorrt-rtx"
    file: str
    precision: str  # "fp32", "fp16" or "bf16"
    key: str = ""  # of the engine cache; empty for plain ONNX
    batch: tuple[int, int] | None = None
    height: tuple[int, int] | None = None
    width: tuple[int, int] | None = None

    def admits(self, batch: int, height: int, width: int) -> bool:
        """Whether this engine can run ``batch`` images of ``height`` × ``width`` latents."""
        asked = ((self.batch, batch), (self.height, height), (self.width, width))
        return all(span is None or span[0] <= value <= span[1] for span, value in asked)

    @property
    def label(self) -> str:
        """What a person is told of it, such as ``tensorrt fp16``."""
        return f"{self.flavour} {self.precision}"


@dataclass(frozen=True)
class EngineSet:
    """The content of ``engines.json``: the engines of one component, the preferred one first."""

    component: str
    engines: list[Engine]
    model_folder: str  # of model.json, the tokenizer and the ONNX files
    threads: int = 0  # for CPU engines; 0 leaves it to them
    cache_folder: str = ""  # where a runtime may keep compiled kernels

    @property
    def info_folder(self) -> Path:
        """The folder that ModelInfo.load reads."""
        return Path(self.model_folder)

    @staticmethod
    def load(folder: Path) -> EngineSet:
        """Read ``engines.json`` in ``folder``."""
        raw = json.loads((folder / "engines.json").read_text(encoding="utf-8"))
        raw["engines"] = [_engine(one) for one in raw["engines"]]
        return EngineSet(**raw)

    def save(self, folder: Path) -> None:
        """Write ``engines.json`` into ``folder``."""
        (folder / "engines.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def _engine(raw: dict[str, Any]) -> Engine:
    spans = {name: tuple(raw[name]) for name in ("batch", "height", "width") if raw.get(name) is not None}
    return Engine(**{**raw, **spans})
