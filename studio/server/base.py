"""What the studio needs of a Triton server, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from studio.report import Report
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine


@dataclass(frozen=True)
class Endpoint:
    """Where a server takes gRPC calls: ``127.0.0.1:8001`` or ``unix:/tmp/…/grpc:0``."""

    address: str


class Server(Protocol):
    """One Triton server. It lives and dies as one: when a model's process dies, the server ends.

    (Triton never restarts a model's process, and a pipeline that waits for a dead one waits for ever.)
    """

    repository: Repository

    @property
    def description(self) -> str:
        """Such as ``embedded Triton 2.51``."""

    def start(self, report: Report) -> Endpoint:
        """Return once every model is ready; raises ServerStartError and leaves nothing behind."""

    def stop(self) -> None:
        """Leave no process, port, shared memory or temporary folder. May be called twice."""

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the server ended, by itself or stopped, within ``timeout`` seconds (None: for ever)."""

    def replace(self, component: str, engines: Sequence[Engine]) -> None:
        """Write a version of the component with these engines, for ``load_model`` and for every start."""

    def recent_log(self) -> list[str]:
        """The server's last lines, the newest last."""
