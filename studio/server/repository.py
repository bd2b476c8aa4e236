"""The model repository that a running Triton reads: ``triton_models/`` and, for each model, its engines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from studio.errors import ServerError, why
from triton_models.diffusion.manifest import Engine, EngineSet

MODELS = Path(__file__).parents[2] / "triton_models"
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass
class Repository:
    """What is to be served: an exported checkpoint and the engines of its components."""

    model_folder: PurePath  # of model.json, the tokenizer and the ONNX files
    engines: Mapping[str, Sequence[Engine]]  # component → engines, the preferred one first
    cache_folder: PurePath  # where runtimes may keep compiled kernels
    threads: int = 0  # for CPU engines; 0 leaves it to them
    sources: Path = field(default=MODELS)

    @property
    def models(self) -> list[str]:
        """The names of all models, pipelines included."""
        return sorted(config.parent.name for config in self.sources.glob("*/config.pbtxt"))

    def write(self, target: Path) -> None:
        """Write the whole repository into ``target``, each model at version 1."""
        shutil.copytree(self.sources, target, ignore=_IGNORED, dirs_exist_ok=True)
        for model in self.models:
            self._describe(model, target / model / "1")

    def replace(self, component: str, engines: Sequence[Engine], target: Path) -> int:
        """Add a version of one component with other engines to a written repository; returns its number.

        Triton serves it from the next ``load_model`` on, and the version before it until then.
        """
        previous, self.engines = self.engines, {**self.engines, component: tuple(engines)}
        try:
            return self._add_version(component, target / component)
        except OSError as error:
            self.engines = previous
            raise ServerError(
                f"The new engine could not be put before the server: {why(error)}.",
                state="The one before goes on serving.",
                hint=f"Make room in {target}.",
            ) from error

    def _add_version(self, component: str, folder: Path) -> int:
        latest = max(int(version.name) for version in folder.iterdir() if version.name.isdigit())
        # Triton may look at any moment, so the version appears whole.
        draft = folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(folder / str(latest), draft, ignore=_IGNORED)
        self._describe(component, draft)
        draft.rename(folder / str(latest + 1))
        return latest + 1

    def _describe(self, model: str, version: Path) -> None:
        EngineSet(
            component=model,
            engines=list(self.engines.get(model, ())),
            model_folder=str(self.model_folder),
            threads=self.threads,
            cache_folder=str(self.cache_folder),
        ).save(version)
