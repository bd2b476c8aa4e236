"""An engine to be built: which graph, for which sizes, on what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from studio.engines.components import COMPONENTS, TEXT_ENCODER, VAE_DECODER, VAE_ENCODER, Component
from studio.engines.key import DEFAULT_LEVEL, EngineKey, Profile, Shapes, Target
from studio.gpu import Gpu
from triton_models.diffusion.manifest import ModelInfo

ANY_SIZE = Profile.fixed(1, 1, 1)  # the text encoder's: it sees no pictures


@dataclass(frozen=True)
class Order:
    """One engine to be built: of which graph, for what, and on which GPU (None: for another machine)."""

    component: Component
    model_folder: Path  # of the exported checkpoint
    key: EngineKey
    shapes: Shapes
    checkpoint: str
    gpu: Gpu | None = None

    @property
    def onnx(self) -> Path:
        return self.model_folder / f"{self.component.name}.onnx"

    @property
    def title(self) -> str:
        return f"{self.component.name.replace('_', ' ')} engine"

    @property
    def weight(self) -> int:
        """Bytes of the graph and its external weights."""
        return sum(path.stat().st_size for path in self.model_folder.glob(f"{self.onnx.name}*"))


def orders(
    model_folder: Path,
    target: Target,
    profile: Profile,
    gpu: Gpu | None = None,
    level: int = DEFAULT_LEVEL,
    refit: bool = False,
) -> list[Order]:
    """What a checkpoint exported to ``model_folder`` needs for ``profile``, one order per component.

    Where ``target`` is fp16, a component that was exported in another precision is built in that one.
    """
    info = ModelInfo.load(model_folder)
    made = []
    for component in COMPONENTS:
        span = ANY_SIZE if component == TEXT_ENCODER else profile
        if component in (VAE_ENCODER, VAE_DECODER):
            span = replace(profile, batch=(1, 1))  # the pipelines encode and decode picture by picture
        onnx = model_folder / f"{component.name}.onnx"
        exported_in = str(info.components[component.name]["precision"])
        own = replace(target, precision=exported_in) if target.precision == "fp16" else target
        made.append(
            Order(
                component,
                model_folder,
                EngineKey.of(component, onnx, own, span, level, refit),
                span.shapes(component, info.max_tokens, info.embedding_width),
                info.name,
                gpu,
            )
        )
    return made
