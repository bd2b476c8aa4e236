"""What a container of ours is made from: its command, mounts, limits and labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from docker.types import Mount, Ulimit

from studio.gpu import Gpu
from studio.server import keeper
from studio.server.container import engine, leases, native
from studio.server.container.image import Image
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

INSIDE = PurePosixPath("/studio")
RUN_FOLDER = "/tmp/triton"
GRPC_PORT = 8001
SHARED_MEMORY = "2g"  # Docker's default of 64 MB is less than one model's region
STACK_BYTES = 64 * 2**20
LIMITS = [
    Ulimit(name="memlock", soft=-1, hard=-1),  # pinned memory
    Ulimit(name="stack", soft=STACK_BYTES, hard=STACK_BYTES),
]
STUB_SECONDS = 660  # how long one model may take to load: engines of gigabytes from slow disks
UNPRIVILEGED_USER = 1000
EMBEDDINGS_CACHE_BYTES = 64 * 2**20  # of prompts drawn before, where Triton's own backend encodes them


@dataclass(frozen=True)
class Settings:
    """What a container is made from. ``image`` empty takes the one that suits the GPU's driver."""

    cache_dir: Path
    owner: str  # of the containers: one studio's, usually its checkout's path
    image: str = ""
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Blueprint:
    """A container from ``image`` that serves ``repository``."""

    image: Image
    repository: Repository
    settings: Settings

    def write(self, models: Path) -> None:
        """Write the model repository as this container is to read it."""
        self.seen_inside(self.repository).write(models)
        self._let_triton_serve(self.repository, models)

    def replace(self, component: str, engines: Sequence[Engine], models: Path) -> None:
        """Add a version of a component with other engines to a written repository."""
        changed = replace(self.repository, engines={component: tuple(engines)})
        inside = self.seen_inside(changed)
        inside.replace(component, inside.engines[component], models)
        self._let_triton_serve(changed, models)

    def _let_triton_serve(self, repository: Repository, models: Path) -> None:
        if self.settings.gpu is not None:  # on a CPU the runners' threads are better shared out
            native.serve(repository, self.image.backends, models)

    def seen_inside(self, repository: Repository) -> Repository:
        """The repository with its paths as the container sees them."""
        return replace(
            repository,
            model_folder=self._inside(repository.model_folder),
            cache_folder=self._inside(repository.cache_folder),
            engines={
                name: tuple(replace(one, file=self._file_inside(one.file)) for one in engines)
                for name, engines in repository.engines.items()
            },
        )

    def _file_inside(self, file: str) -> str:
        # A relative one is beside model.json, here as there.
        return str(self._inside(Path(file))) if Path(file).is_absolute() else file

    def _inside(self, path: PurePath) -> PurePosixPath:
        return INSIDE / "cache" / PurePosixPath(path.relative_to(self.settings.cache_dir).as_posix())

    def mounts(self, models: Path) -> list[Mount]:
        cache = self.settings.cache_dir
        compiled = Path(self.repository.cache_folder)
        compiled.mkdir(parents=True, exist_ok=True)
        leases.give(compiled, user()[0])
        return [
            Mount(str(INSIDE / "models"), str(models), type="bind", read_only=True),
            Mount(str(INSIDE / "keeper.py"), str(keeper.__file__), type="bind", read_only=True),
            Mount(str(INSIDE / "cache"), str(cache), type="bind", read_only=True),
            Mount(str(self._inside(compiled)), str(compiled), type="bind"),
        ]

    def options(self, raise_limits: bool = True) -> dict[str, Any]:
        """What the container may have and may not; engines that run rootless refuse to raise limits."""
        uid, gid = user()
        gpu = self.settings.gpu
        return {
            "user": f"{uid}:{gid}",
            "ports": {f"{GRPC_PORT}/tcp": ("127.0.0.1", None)},  # Docker chooses one that is free
            "shm_size": SHARED_MEMORY,
            "ulimits": LIMITS if raise_limits else [],
            "device_requests": [engine.gpu_request(gpu)] if gpu else [],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "rw,exec,mode=1777"},
            "environment": {"HOME": "/tmp", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            "entrypoint": [],
            "init": True,
            "stdin_open": True,  # the keeper stops when its standard input ends
        }

    def command(self) -> list[str]:
        return [
            *("python3", "-I", "-S", str(INSIDE / "keeper.py"), RUN_FOLDER, "tritonserver"),
            f"--model-repository={INSIDE / 'models'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.repository.models),
            "--disable-auto-complete-config",
            "--strict-readiness=false",
            "--allow-http=false",
            "--grpc-address=0.0.0.0",  # of the container; the host publishes it on 127.0.0.1 only
            f"--grpc-port={GRPC_PORT}",
            "--metrics-address=127.0.0.1",
            f"--cache-config=local,size={EMBEDDINGS_CACHE_BYTES}",
            f"--backend-config=python,stub-timeout-seconds={STUB_SECONDS}",
            f"--exit-timeout-secs={int(keeper.GRACE_SECONDS)}",
        ]

    def digest(self) -> str:
        """Of all that makes a container what it is, the models' own code included."""
        parts: list[Any] = [
            self.image.id,
            self.command(),
            self.options(),
            self.settings.owner,
            str(self.settings.cache_dir),
        ]
        parts += [self.seen_inside(self.repository), Path(keeper.__file__).read_text(encoding="utf-8")]
        sources = sorted(
            path for path in self.repository.sources.rglob("*") if path.suffix in (".py", ".pbtxt")
        )
        digest = hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode())
        for path in sources:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:20]


def user() -> tuple[int, int]:
    """Who the container runs as: this user, but never root."""
    if not hasattr(os, "getuid") or os.getuid() == 0:
        return UNPRIVILEGED_USER, UNPRIVILEGED_USER
    return os.getuid(), os.getgid()
