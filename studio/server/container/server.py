"""Triton in a container, behind the same protocol as the embedded server."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from studio.client import TritonClient
from studio.errors import DockerError, ServerError, ServerStartError, why
from studio.report import Report
from studio.server import keeper
from studio.server.base import Endpoint
from studio.server.container import engine, image, leases
from studio.server.container.blueprint import GRPC_PORT, STUB_SECONDS, Blueprint, Settings, user
from studio.server.container.leases import NAME_PREFIX
from studio.server.container.refusals import explain, explain_exit
from studio.server.log import ServerLog
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

logger = logging.getLogger(__name__)

LABEL_CONFIGURATION = "org.triton-studio.configuration"
READY_SECONDS = STUB_SECONDS + 30
POLL_SECONDS = 0.1
LOG_LINES = 200  # of a container that is gone on with
STOP_SECONDS = int(keeper.GRACE_SECONDS) + 10


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
        self._image: image.Image | None = None

    @property
    def description(self) -> str:
        """Where Triton runs, such as ``Triton in Docker on NVIDIA H200``."""
        where = f" on {self.settings.gpu.name}" if self.settings.gpu else ""
        return f"Triton in Docker{where}"

    def start(self, report: Report) -> Endpoint:
        """Run or find the container; raises ServerStartError or DockerError and leaves nothing behind."""
        report("Asking Docker", None)
        self._client = client = engine.connect()
        try:
            wanted = engine.image_for(self.settings.gpu, self.settings.image)
            self._image = image.ensure(client, wanted, report, gpu=self.settings.gpu is not None)
            self._container = container = self._find_or_run(client, self._image, report)
            self._log.follow(_output(container))
            deque(self._log.lines(0), maxlen=0)  # nobody waits for its lines
            return self._wait_until_ready(container, report)
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
        gone = container is None or _remove(container, STOP_SECONDS)
        if container is not None:
            self._log.end()
        if lease is not None:
            lease.end(gone)
        if client is not None:
            client.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the container ended within ``timeout`` seconds (None: for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._alive():
            left = POLL_SECONDS * 5 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, POLL_SECONDS * 5))
        return True

    def replace(self, component: str, engines: Sequence[Engine]) -> None:
        """Put other engines of a component where the next ``load_model`` finds them."""
        if self._lease is not None and self._image is not None:
            blueprint = Blueprint(self._image, self.repository, self.settings)
            with self._writing():
                blueprint.replace(component, engines, self._lease.models)
                self._lease.share_with(user()[0])
            self.repository.engines = {**self.repository.engines, component: tuple(engines)}

    def recent_log(self) -> list[str]:
        """The container's last lines, the newest last."""
        return self._log.recent()

    def _alive(self) -> bool:
        try:
            return _running(self._container)
        except DockerError:  # an engine that ends takes its containers along
            return False

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ServerStartError(
                f"The server's files could not be written to {self.settings.cache_dir}: {why(error)}.",
                hint="Make room there, or name another folder with STUDIO_CACHE.",
            ) from error

    def _find_or_run(self, client: docker.DockerClient, base: image.Image, report: Report) -> Container:
        """A container left by a killed studio with this very configuration, or a new one."""
        blueprint = Blueprint(base, self.repository, self.settings)
        configuration = blueprint.digest()
        found = self._take_over(client, configuration)
        if found is not None:
            logger.info("Going on with container %s, which an earlier studio left running", found.short_id)
            return found
        report("Starting the container", None)
        with self._writing():
            self._lease = lease = leases.take(self.settings.cache_dir, configuration)
            blueprint.write(lease.models)
            lease.share_with(user()[0])
            mounts = blueprint.mounts(lease.models)
        labels = leases.labels(self.settings.owner, self.settings.cache_dir)
        labels[LABEL_CONFIGURATION] = configuration
        settings: dict[str, Any] = {"name": lease.container, "mounts": mounts, "labels": labels}
        try:
            return self._run(client, blueprint, settings | blueprint.options())
        except APIError as error:
            if "rlimit" not in str(error):
                raise
        logger.info("Docker may not raise the container's limits here; going on with its own")
        return self._run(client, blueprint, settings | blueprint.options(raise_limits=False))

    def _run(self, client: docker.DockerClient, blueprint: Blueprint, options: dict[str, Any]) -> Container:
        self._container = made = client.containers.create(blueprint.image.id, blueprint.command(), **options)
        try:
            made.start()
        except APIError:
            _remove(made, 0)
            raise
        return made

    def _take_over(self, client: docker.DockerClient, configuration: str) -> Container | None:
        """Remove what killed studios of this checkout left, but for one that is just what is wanted."""
        kept: Container | None = None
        for container, lease in _left(client, self.settings.cache_dir, self.settings.owner):
            same = container.labels.get(LABEL_CONFIGURATION) == configuration
            if kept is None and same and container.status == "running":
                kept, self._lease = container, lease
            else:
                _discard(container, lease)
        return kept

    def _wait_until_ready(self, container: Container, report: Report) -> Endpoint:
        models = self.repository.models
        deadline = time.monotonic() + READY_SECONDS
        endpoint: Endpoint | None = None
        ready: set[str] = set()
        while time.monotonic() < deadline:
            if not _running(container):
                raise self._why_it_ended(container)
            endpoint = endpoint or _endpoint(container)
            if endpoint is not None:
                newly = _ready(endpoint, [model for model in models if model not in ready])
                ready.update(newly)
                if newly:
                    report(f"Loading models: {len(ready)} of {len(models)}", len(ready) / len(models))
                if len(ready) == len(models):
                    return endpoint
            time.sleep(POLL_SECONDS)
        raise ServerStartError(
            f"Triton's container was not ready after {READY_SECONDS} s. {self._log.reason()}".strip(),
            state=f"It was removed; its whole log is in {self._log.path}.",
        )

    def _why_it_ended(self, container: Container) -> ServerStartError:
        self._log.end()
        state = container.attrs["State"]
        ended = explain_exit(state["ExitCode"], state["OOMKilled"], self._log.reason())
        return ServerStartError(
            ended.what, state=f"{ended.state} Its whole log is in {self._log.path}.", hint=ended.hint
        )


def sweep(cache_dir: Path, owner: str) -> None:
    """Remove the containers that killed studios of ``owner`` left; says nothing where Docker is away."""
    if not leases.any_left(cache_dir):
        return
    with suppress(DockerError, DockerException, OSError), closing(engine.connect()) as client:
        for container, lease in _left(client, cache_dir, owner):
            _discard(container, lease)


def _left(
    client: docker.DockerClient, cache_dir: Path, owner: str
) -> Iterator[tuple[Container, leases.Lease]]:
    """The containers of ``owner`` that no living studio holds, each with its lease, now this process's."""
    labels = [f"{name}={value}" for name, value in leases.labels(owner, cache_dir).items()]
    for container in client.containers.list(all=True, filters={"label": labels}, ignore_removed=True):
        lease = leases.try_take(cache_dir, container.name.removeprefix(NAME_PREFIX))
        if lease is not None:
            yield container, lease


def _discard(container: Container, lease: leases.Lease) -> None:
    logger.info("Removing container %s, which an earlier studio left", container.short_id)
    lease.end(gone=_remove(container, 0))


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


def _remove(container: Container, grace_seconds: int) -> bool:
    """Stop and remove it; returns whether it is gone. What Docker keeps, the next start removes."""
    try:
        if grace_seconds:
            container.stop(timeout=grace_seconds)
        container.remove(force=True)
    except NotFound:
        pass
    except (DockerException, OSError) as error:
        logger.warning("Container %s could not be removed: %s", container.short_id, error)
        return False
    return True
