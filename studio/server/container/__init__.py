"""Triton in a container, through the Docker SDK. Nothing outside this package imports ``docker``."""

from studio.server.container.blueprint import Settings
from studio.server.container.engine import Verdict, judge
from studio.server.container.server import ContainerServer

__all__ = ["ContainerServer", "Settings", "Verdict", "judge"]
