"""Triton in a container, through the Docker SDK. Nothing outside this package imports ``docker``."""

from studio.server.container.blueprint import Settings
from studio.server.container.engine import Verdict, judge
from studio.server.container.server import ContainerServer, sweep
from studio.server.container.toolbox import Toolbox, open_toolbox

__all__ = ["ContainerServer", "Settings", "Toolbox", "Verdict", "judge", "open_toolbox", "sweep"]
