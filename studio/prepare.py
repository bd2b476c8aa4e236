"""From settings to what a server can serve: the checkpoint, exported, and the engines that run it here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.checkpoint import Checkpoint, resolve
from studio.engines import cpu
from studio.engines.cache import EngineCache
from studio.engines.cpu import CpuChoice
from studio.engines.export import export, exported
from studio.engines.flavour import TENSORRT, precision_for
from studio.engines.key import Profile, Target
from studio.engines.places import place
from studio.engines.workshop import Workshop
from studio.machine import CONTAINER, EMBEDDED, Machine
from studio.report import Report
from studio.server.repository import Repository
from studio.settings import Settings
from studio.terminal import Terminal
from triton_models.diffusion.manifest import Engine, ModelInfo


@dataclass(frozen=True)
class Prepared:
    """A checkpoint ready to be served."""

    settings: Settings
    checkpoint: Checkpoint
    folder: Path  # of model.json, the tokenizer and the ONNX files
    engines: Mapping[str, Sequence[Engine]]  # component → engines, the preferred one first
    workshop: Workshop | None  # where engines for the GPU are made; None: nothing to make

    @property
    def usual(self) -> Profile:
        """One picture of the checkpoint's own size."""
        info = ModelInfo.load(self.folder)
        scale = info.vae_scale_factor
        return Profile.fixed(1, info.default_height // scale, info.default_width // scale)

    def repository(self) -> Repository:
        """What a server is to serve."""
        compiled = self.settings.cache_dir / "compiled"
        compiled.mkdir(parents=True, exist_ok=True)
        return Repository(self.folder, self.engines, compiled, threads(self.settings))

    def export_for_gpu(self, report: Report) -> Path:
        """The checkpoint in the precision of the GPU's engines, exported now unless it is there."""
        assert self.workshop is not None
        target = self.workshop.target
        return export(
            self.checkpoint,
            self.settings.cache_dir,
            report,
            precision=target.precision,
            wide_precision=target.wide_precision,
        )


def prepare(settings: Settings, here: Machine, terminal: Terminal) -> Prepared:
    """Resolve, export and choose. Raises CheckpointError, ExportError, CacheError and SettingsError."""
    with terminal.stage("Checkpoint") as stage:
        checkpoint = resolve(settings.model, stage.report)
        folder = export(checkpoint, settings.cache_dir, stage.report)
        width, height = checkpoint.default_size
        stage.outcome = f"{checkpoint.name}, {width} × {height}"
    with terminal.stage("Engine") as stage:
        choice = _until_engines_are_built(settings, here, folder, stage.report)
        engines = cpu.engines(choice)
        workshop = _workshop(settings, here, stage.report)
        built = _built(workshop, checkpoint, settings) if workshop else {}
        for component, found in built.items():
            engines[component] = (*found, *engines[component])
        stage.outcome = f"{choice.label}: {choice.reason}"
        if workshop:
            state = (
                f"{sum(map(len, built.values()))} built" if built else "to be built while the studio is idle"
            )
            stage.outcome = (
                f"{workshop.target.flavour} {workshop.target.precision} ({state}); until then {choice.label}"
            )
    if here.engine.missing and here.runtime == EMBEDDED:
        terminal.line(f"This GPU could draw with {here.engine.flavour}: {here.engine.missing}")
    return Prepared(settings, checkpoint, folder, engines, workshop)


def _until_engines_are_built(settings: Settings, here: Machine, folder: Path, report: Report) -> CpuChoice:
    """What draws without an engine for the GPU."""
    if here.gpu and here.runtime == CONTAINER:  # OpenVINO is not in there
        return CpuChoice(cpu.ONNX_RUNTIME, "fp32", "inside NVIDIA's container it uses the GPU")
    wanted = settings.engine if settings.engine in cpu.FLAVOURS else "auto"
    return cpu.choose(wanted, folder, settings.cache_dir, threads(settings), report)


def threads(settings: Settings) -> int:
    """How many threads a CPU engine gets."""
    return settings.threads or cpu.physical_cores()


def _workshop(settings: Settings, here: Machine, report: Report) -> Workshop | None:
    """Where this machine's GPU engines are made: here, or in the container that is to run them."""
    if here.gpu is None:
        return None
    cache, places = EngineCache(settings.cache_dir), [place(named) for named in settings.engine_sources]
    if here.runtime == EMBEDDED:
        if not here.engine.version:
            return None
        return Workshop(cache, Target.of(here.gpu, here.engine), here.gpu, places)
    from studio.server import container  # docker is imported only where it is used

    toolbox = container.open_toolbox(here.gpu, settings.image, settings.cache_dir, report)
    if toolbox is None:
        return None
    precision, _ = precision_for(here.gpu)  # the host's own packages may have been no choice at all
    choice = replace(here.engine, flavour=TENSORRT, version=toolbox.version, precision=precision)
    return Workshop(cache, Target.of(here.gpu, choice), here.gpu, places, python=toolbox.python)


def _built(workshop: Workshop, checkpoint: Checkpoint, settings: Settings) -> dict[str, list[Engine]]:
    """The engines of this checkpoint that earlier starts made for this GPU, of every size, each checked."""
    target = workshop.target
    folder = exported(checkpoint, settings.cache_dir, target.precision, target.wide_precision)
    if folder is None:
        return {}
    return {name: [entry.engine for entry in entries] for name, entries in workshop.built(folder).items()}
