"""Triton in a container, behind the same protocol as the embedded server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import docker
from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount, Ulimit

from studio.client import TritonClient
from studio.errors import ServerError, ServerStartError
from studio.gpu import Gpu
from studio.report import Report
from studio.server import keeper
from studio.server.base import Endpoint
from studio.server.container import engine, image, leases
from studio.server.container.refusals import explain, explain_exit
from studio.server.log import ServerLog
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

logger = logging.getLogger(__name__)

NAME_PREFIX = "triton-studio-"
LABEL_OWNER = "org.triton-studio.owner"  # which checkout's studio it belongs to
LABEL_CONFIGURATION = "org.triton-studio.configuration"
INSIDE = PurePosixPath("/studio")
RUN_FOLDER = "/tmp/triton"
GRPC_PORT = 8001
SHARED_MEMORY = "2g"  # Docker's default of 64 MB is less than one model's region
STACK_BYTES = 64 * 2**20
READY_SECONDS = 660  # engines of gigabytes from slow disks
POLL_SECONDS = 0.1
LOG_LINES = 200  # of a container that is gone on with
STOP_SECONDS = int(keeper.GRACE_SECONDS) + 10
UNPRIVILEGED_USER = 1000


@dataclass(frozen=True)
class Settings:
    """What a container is made from. ``image`` empty takes the one that suits the GPU's driver."""

    cache_dir: Path
    owner: str  # of the containers: one studio's, usually its checkout's path
    image: str = ""
    gpu: Gpu | None = None


class ContainerServer:
    """One Triton in one container. The container outlives a killed studio; the next start finds it, and
    goes on with it where its configuration is the same, or removes it."""

    def __init__(self, repository: Repository, log_folder: Path, settings: Settings) -> None:
        self.repository = repository
        self.settings = settings
        self._log = ServerLog(log_folder / "triton-container.log")
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None
        self._container: Container | None = None
        self._lease: leases.Lease | None = None

    @property
    def description(self) -> str:
        """Where Triton runs, such as ``Triton in Docker on NVIDIA H200``."""
        where = f" on {self.settings.gpu.name}" if self.settings.gpu else ""
        return f"Triton in Docker{where}"

    def start(self, report: Report) -> Endpoint:
        """Run or find the container; raises ServerStartError or DockerError and leaves nothing behind."""
        report("Asking Docker", None)
        self._client = engine.connect()
        try:
            wanted = engine.image_for(self.settings.gpu, self.settings.image)
            image_id = image.ensure(self._client, wanted, report)
            self._container = self._find_or_run(image_id, report)
            self._log.follow(_output(self._container))
            deque(self._log.lines(0), maxlen=0)  # nobody waits for its lines
            return self._wait_until_ready(report)
        except (DockerException, OSError) as error:
            self.stop()
            raise explain(error) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let running requests end, then remove the container, its folder and its lease."""
        with self._lock:
            container, self._container = self._container, None
            lease, self._lease = self._lease, None
            client, self._client = self._client, None
        if container is not None:
            _remove(container, STOP_SECONDS)
            self._log.end()
        if lease is not None:
            lease.remove()
        if client is not None:
            client.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the container ended within ``timeout`` seconds (None: for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while _running(self._container):
            left = POLL_SECONDS * 5 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, POLL_SECONDS * 5))
        return True

    def replace(self, component: str, engines: Sequence[Engine]) -> None:
        """Put other engines of a component where the next ``load_model`` finds them."""
        if self._lease is not None:
            inside = self._seen_inside(replace(self.repository, engines={component: engines}))
            inside.replace(component, inside.engines[component], self._lease.models)
            self.repository.engines = {**self.repository.engines, component: tuple(engines)}

    def recent_log(self) -> list[str]:
        """The container's last lines, the newest last."""
        return self._log.recent()

    def _find_or_run(self, image_id: str, report: Report) -> Container:
        """A container left by a killed studio with this very configuration, or a new one."""
        assert self._client is not None
        options = self._options()
        configuration = self._digest(image_id, options)
        found = self._take_over(configuration)
        if found is not None:
            logger.info("Going on with container %s, which an earlier studio left running", found.short_id)
            return found
        report("Starting the container", None)
        self._lease = leases.take(self.settings.cache_dir, configuration)
        self._seen_inside(self.repository).write(self._lease.models)
        self._lease.share_with(_user()[0])
        self._container = self._client.containers.create(
            image_id,
            self._command(),
            name=NAME_PREFIX + self._lease.name,
            mounts=self._mounts(self._lease.models),
            labels={LABEL_OWNER: self.settings.owner, LABEL_CONFIGURATION: configuration},
            **options,
        )
        self._container.start()
        return self._container

    def _take_over(self, configuration: str) -> Container | None:
        """Remove what killed studios of this checkout left, but for one that is just what is wanted."""
        assert self._client is not None
        kept: Container | None = None
        labels = {"label": f"{LABEL_OWNER}={self.settings.owner}"}
        for container in self._client.containers.list(all=True, filters=labels, ignore_removed=True):
            lease = leases.try_take(self.settings.cache_dir, container.name.removeprefix(NAME_PREFIX))
            if lease is None:
                continue  # a studio that runs beside this one holds it
            same = container.labels.get(LABEL_CONFIGURATION) == configuration
            if kept is None and same and container.status == "running":
                kept, self._lease = container, lease
                continue
            logger.info("Removing container %s, which an earlier studio left", container.short_id)
            _remove(container, 0)
            lease.remove()
        return kept

    def _seen_inside(self, repository: Repository) -> Repository:
        """The repository with its paths as the container sees them."""
        return replace(
            repository,
            model_folder=self._inside(repository.model_folder),
            cache_folder=self._inside(repository.cache_folder),
            engines={
                name: tuple(replace(one, file=str(self._inside(Path(one.file)))) for one in engines)
                for name, engines in repository.engines.items()
            },
        )

    def _inside(self, path: PurePath) -> PurePosixPath:
        return INSIDE / "cache" / PurePosixPath(path.relative_to(self.settings.cache_dir).as_posix())

    def _mounts(self, models: Path) -> list[Mount]:
        cache = self.settings.cache_dir
        compiled = Path(self.repository.cache_folder)
        compiled.mkdir(parents=True, exist_ok=True)
        leases.give(compiled, _user()[0])
        return [
            Mount(str(INSIDE / "models"), str(models), type="bind", read_only=True),
            Mount(str(INSIDE / "keeper.py"), str(keeper.__file__), type="bind", read_only=True),
            Mount(str(INSIDE / "cache"), str(cache), type="bind", read_only=True),
            Mount(str(self._inside(compiled)), str(compiled), type="bind"),
        ]

    def _options(self) -> dict[str, Any]:
        uid, gid = _user()
        gpu = self.settings.gpu
        return {
            "user": f"{uid}:{gid}",
            "ports": {f"{GRPC_PORT}/tcp": ("127.0.0.1", None)},  # Docker chooses one that is free
            "shm_size": SHARED_MEMORY,
            "ulimits": [
                Ulimit(name="memlock", soft=-1, hard=-1),
                Ulimit(name="stack", soft=STACK_BYTES, hard=STACK_BYTES),
            ],
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

    def _command(self) -> list[str]:
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
            f"--backend-config=python,stub-timeout-seconds={READY_SECONDS}",
            f"--exit-timeout-secs={int(keeper.GRACE_SECONDS)}",
        ]

    def _digest(self, image_id: str, options: dict[str, Any]) -> str:
        """Of all that makes a container what it is, the models' own code included."""
        parts: list[Any] = [
            image_id,
            self._command(),
            options,
            self.settings.owner,
            str(self.settings.cache_dir),
        ]
        parts += [self._seen_inside(self.repository), Path(keeper.__file__).read_text(encoding="utf-8")]
        sources = sorted(
            path for path in self.repository.sources.rglob("*") if path.suffix in (".py", ".pbtxt")
        )
        digest = hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode())
        for path in sources:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:20]

    def _wait_until_ready(self, report: Report) -> Endpoint:
        assert self._container is not None
        models = self.repository.models
        deadline = time.monotonic() + READY_SECONDS
        endpoint: Endpoint | None = None
        ready: set[str] = set()
        while time.monotonic() < deadline:
            if not _running(self._container):
                raise self._why_it_ended()
            endpoint = endpoint or _endpoint(self._container)
            if endpoint is not None:
                ready |= set(_ready(endpoint, [model for model in models if model not in ready]))
                report(f"Loading models: {len(ready)} of {len(models)}", len(ready) / len(models))
                if len(ready) == len(models):
                    return endpoint
            time.sleep(POLL_SECONDS)
        raise ServerStartError(
            f"Triton's container was not ready after {READY_SECONDS} s. {self._log.reason()}".strip(),
            state=f"It was removed; its whole log is in {self._log.path}.",
        )

    def _why_it_ended(self) -> ServerStartError:
        assert self._container is not None
        self._log.end()
        state = self._container.attrs["State"]
        ended = explain_exit(state["ExitCode"], state["OOMKilled"], self._log.reason())
        return ServerStartError(
            ended.what, state=f"{ended.state} Its whole log is in {self._log.path}.", hint=ended.hint
        )


@contextmanager
def _output(container: Container) -> Iterator[Iterator[bytes]]:
    """A container's output, line by line, until it ends."""
    chunks = container.logs(stream=True, follow=True, tail=LOG_LINES)
    try:
        yield _lines(chunks)
    finally:
        chunks.close()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    with suppress(DockerException, OSError):
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    if rest:
        yield rest


def _running(container: Container | None) -> bool:
    if container is None:
        return False
    try:
        container.reload()
    except NotFound:
        return False
    except (DockerException, OSError) as error:
        raise explain(error) from error
    return container.status in ("created", "running")


def _endpoint(container: Container) -> Endpoint | None:
    published = container.ports.get(f"{GRPC_PORT}/tcp")
    return Endpoint(f"127.0.0.1:{published[0]['HostPort']}") if published else None


def _ready(endpoint: Endpoint, models: list[str]) -> list[str]:
    client = TritonClient(endpoint.address)
    try:
        return [model for model in models if client.model_ready(model)]
    except ServerError:  # not listening yet
        return []
    finally:
        client.close()


def _remove(container: Container, grace_seconds: int) -> None:
    with suppress(NotFound):
        if grace_seconds:
            container.stop(timeout=grace_seconds)
        container.remove(force=True)


def _user() -> tuple[int, int]:
    """Who the container runs as: this user, but never root."""
    if not hasattr(os, "getuid") or os.getuid() == 0:
        return UNPRIVILEGED_USER, UNPRIVILEGED_USER
    return os.getuid(), os.getgid()
