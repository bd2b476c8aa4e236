"""What every test gets: a clean environment of its own; and, for those that ask, real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.report import silent
from studio.server.embedded import Embedded, find_wheel
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from triton_models.diffusion.manifest import Engine

STAND_IN = Path(__file__).parent / "stand_in"
COMPONENTS = ("text_encoder", "vae_encoder", "vae_decoder", "denoiser")


def _isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("STUDIO_", "HF_", "XDG_")):
            patch.delenv(name)
    for name in ("HOME", "STUDIO_DATA", "STUDIO_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        folder = home / name.lower()
        folder.mkdir()
        patch.setenv(name, str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that outlive a test see nothing of the user's either."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("session"))
        yield


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own home, data and cache."""
    _isolate(monkeypatch, tmp_path_factory.mktemp("test"))


@pytest.fixture(scope="session")
def embedded_platform() -> None:
    """Skips where no embedded server exists."""
    if find_wheel() is None:
        pytest.skip("nvidia-pytriton has no wheel for this platform")


@pytest.fixture
def stand_in(embedded_platform: None, tmp_path: Path) -> Repository:
    """A repository with the tensors of the real one, which loads in no time."""
    return Repository(tmp_path / "model", {}, tmp_path / "cache", threads=1, sources=STAND_IN)


@pytest.fixture
def stand_in_server(stand_in: Repository, tmp_path: Path) -> Iterator[Supervisor]:
    """A running server over the stand-in repository."""
    with Supervisor(Embedded(stand_in, tmp_path / "logs")) as supervisor:
        supervisor.start()
        yield supervisor


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled checkpoint's ONNX components."""
    from studio.checkpoint import resolve
    from studio.engines.export import export

    return export(resolve(""), tmp_path_factory.mktemp("engine_cache"))


@pytest.fixture(scope="session")
def exported_fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in half precision, as TensorRT is given it."""
    from studio.checkpoint import resolve
    from studio.engines.export import export

    return export(
        resolve(""), tmp_path_factory.mktemp("engine_cache_fp16"), precision="fp16", wide_precision="bf16"
    )


@pytest.fixture(scope="session")
def studio_server(
    embedded_platform: None, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Supervisor]:
    """The real pipelines over the bundled checkpoint, on ONNX Runtime in fp32."""
    engines = {name: [Engine("onnxruntime", f"{name}.onnx", "fp32")] for name in COMPONENTS}
    repository = Repository(exported, engines, tmp_path_factory.mktemp("compiled"), threads=2)
    with Supervisor(Embedded(repository, tmp_path_factory.mktemp("logs"))) as supervisor:
        supervisor.start(silent)
        yield supervisor
