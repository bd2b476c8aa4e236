"""What makes an engine reusable: everything that it depends on, hashed into one name."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from studio.engines import components, verified
from studio.engines.components import Component
from studio.engines.flavour import BF16_CAPABILITY, TENSORRT_RTX, Choice
from studio.gpu import GIB, Gpu

Range = tuple[int, int]  # inclusive
Shape = tuple[int, ...]
Shapes = dict[str, tuple[Shape, Shape, Shape]]  # by input: smallest, best, largest
DEFAULT_LEVEL = 3  # TensorRT's own
RECIPE = 2  # of the builder: raise it when the same order would give another engine


@dataclass(frozen=True)
class Profile:
    """The sizes an engine runs: pictures, and latents high and wide. It is fastest at the
    smallest batch of the largest size.

    One size by default: kernels are chosen for exactly that.
    """

    batch: Range
    height: Range
    width: Range

    @staticmethod
    def parse(parts: Any) -> Profile:
        """The profile from JSON. Raises ValueError."""
        ranges = {name: tuple(span) for name, span in dict(parts).items()}
        if ranges.keys() != {"batch", "height", "width"}:
            raise ValueError("a profile has a batch, a height and a width")
        for span in ranges.values():
            if len(span) != 2 or any(type(end) is not int for end in span) or not 1 <= span[0] <= span[1]:
                raise ValueError("a profile's ranges are two numbers, the smaller first")
        return Profile(**ranges)

    @staticmethod
    def fixed(batch: int, height: int, width: int) -> Profile:
        """Exactly ``batch`` pictures of ``height`` × ``width`` latents."""
        return Profile((batch, batch), (height, height), (width, width))

    def shapes(self, component: Component, tokens: int, embedding_width: int) -> Shapes:
        """Every input's smallest, best and largest shape.

        The denoiser always computes both prompts of guidance; a request without guidance weighs one by 0.
        """

        def at(batch: int, height: int, width: int, *, guided: bool = True) -> dict[str, int]:
            more = {"tokens": tokens, "embedding_width": embedding_width}
            return components.sizes(batch, height, width, guided=guided, **more)

        one_prompt = component.name == components.TEXT_ENCODER.name
        ends = (
            at(self.batch[0], self.height[0], self.width[0], guided=not one_prompt),
            at(self.batch[0], self.height[1], self.width[1]),
            at(self.batch[1], self.height[1], self.width[1]),
        )
        return {
            spec.name: (spec.shape(ends[0]), spec.shape(ends[1]), spec.shape(ends[2]))
            for spec in component.inputs
        }

    def __str__(self) -> str:
        pixels = components.PIXELS_PER_LATENT
        width, height = (_span(low * pixels, high * pixels) for low, high in (self.width, self.height))
        return f"{width} × {height}, batch {_span(*self.batch)}"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


@dataclass(frozen=True)
class Target:
    """What an engine is made for. TensorRT-RTX compiles its kernels where it runs, so its engines fit
    every card of their compute capability and ``device`` is empty."""

    flavour: str
    version: str  # with the build number
    capability: str  # such as "8.9"
    precision: str
    device: str = ""  # TensorRT measures on one card: its full name and memory

    @property
    def wide_precision(self) -> str:
        """What a component is computed in when its values leave fp16's range."""
        builder_knows_bf16 = self.flavour == TENSORRT_RTX or not self.version.startswith("8.")
        able = tuple(map(int, self.capability.split("."))) >= BF16_CAPABILITY and builder_knows_bf16
        return "bf16" if able else "fp32"

    @staticmethod
    def of(gpu: Gpu, choice: Choice) -> Target:
        """The target for ``choice``'s flavour and precision on ``gpu``."""
        device = f"{gpu.name} {gpu.memory_total / GIB:.0f} GB"
        device = "" if choice.flavour == TENSORRT_RTX else device
        return Target(choice.flavour, choice.version, gpu.compute, choice.precision, device)


@dataclass(frozen=True)
class EngineKey:
    """Engines with equal keys are interchangeable.

    Not in it, on purpose: the driver (an upgrade keeps engines) and the workspace (it follows the memory
    that happened to be free). Both are in the sidecar.
    """

    component: str
    onnx: str  # sha256 over the graph and its external weights
    flavour: str
    version: str
    capability: str
    precision: str
    device: str
    system: str  # such as "Linux-x86_64"
    profile: Profile
    level: int = DEFAULT_LEVEL
    refit: bool = False
    recipe: int = RECIPE

    @staticmethod
    def of(
        component: Component,
        onnx: Path,
        target: Target,
        profile: Profile,
        level: int = DEFAULT_LEVEL,
        refit: bool = False,
    ) -> EngineKey:
        """The key of ``component``'s engine from the ONNX file ``onnx``. Raises OSError."""
        return EngineKey(
            component=component.name,
            onnx=onnx_digest(onnx),
            **asdict(target),
            system=f"{platform.system()}-{platform.machine()}",
            profile=profile,
            level=level,
            refit=refit,
        )

    @staticmethod
    def parse(parts: Any) -> EngineKey:
        """The key from its parts as JSON. Raises ValueError when they are not exactly a key's."""
        types = {"profile": dict, "level": int, "refit": bool, "recipe": int}
        names = {field.name for field in fields(EngineKey)}
        if not isinstance(parts, dict) or parts.keys() != names:
            raise ValueError("the parts are not those of an engine's key")
        for name in names:
            if type(parts[name]) is not types.get(name, str):
                raise ValueError(f"the part {name!r} has the wrong type")
        if parts["component"] not in [component.name for component in components.COMPONENTS]:
            raise ValueError("the part 'component' is not one of ours")
        if not re.fullmatch(r"[\w.]+", parts["capability"]):  # it becomes part of a folder's name
            raise ValueError("the part 'capability' is not one")
        return EngineKey(**{**parts, "profile": Profile.parse(parts["profile"])})

    @property
    def digest(self) -> str:
        """sha256 of all parts."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The engine's folder: readable, and as unique as the digest."""
        return f"{self.component}-sm{self.capability.replace('.', '')}-{self.digest[:20]}"

    def differences(self, other: EngineKey) -> list[str]:
        """What sets ``other`` apart from this key, as phrases; the most telling first."""
        return [
            f"{label} is {_short(getattr(other, part))}, not {_short(getattr(self, part))}"
            for part, label in _LABELS.items()
            if getattr(self, part) != getattr(other, part)
        ]


_LABELS = {
    "component": "its component",
    "onnx": "its checkpoint",
    "flavour": "its engine",
    "version": "its TensorRT version",
    "capability": "its compute capability",
    "device": "its GPU",
    "system": "its system",
    "precision": "its precision",
    "profile": "its size",
    "level": "its optimization level",
    "refit": "whether it can be refitted",
    "recipe": "its builder's recipe",
}


def _short(value: object) -> str:
    text = str(value)
    is_digest = len(text) == 64 and " " not in text
    return text[:12] if is_digest else text or "any"


def onnx_digest(file: Path) -> str:
    """sha256 over the graph's and its external weights' own. Raises OSError.

    An export's folder is sealed (``verified``), so its sums are read rather than made again.
    """
    files = [file, *sorted(file.parent.glob(f"{file.name}.*"))]
    try:
        lines = (file.parent / verified.SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        sums = {}
    digests = [sums.get(path.name) or verified.sha256(path) for path in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
