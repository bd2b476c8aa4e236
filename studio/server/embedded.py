"""Triton as a child process of the studio: the server that ships in the nvidia-pytriton wheel."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import ServerStartError, why
from studio.report import Report
from studio.server import keeper, leftovers
from studio.server.base import Endpoint
from studio.server.log import ServerLog
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

TRITON_VERSION = "2.51"
STUB_SECONDS = 600  # how long one model may take to load: engines of gigabytes from slow disks
STALL_SECONDS = STUB_SECONDS + 30
STOP_SECONDS = keeper.GRACE_SECONDS + 10
PORT_TRIES = 5
LONGEST_SOCKET = len("unix:") + 107  # what sockaddr_un holds


@dataclass(frozen=True)
class Wheel:
    """Where the parts of the installed nvidia-pytriton lie."""

    server: Path  # bin/, backends/, caches/, python_backend_stubs/
    libraries: Path


def find_wheel() -> Wheel | None:
    """The wheel's server, or None where there is none: it exists for Linux on x86-64 only."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    return Wheel(package / "tritonserver", package.parent / "nvidia_pytriton.libs")


class Embedded:
    """A Triton server that only this user can reach: it listens on a socket in a private folder."""

    description = f"embedded Triton {TRITON_VERSION}"

    def __init__(
        self,
        repository: Repository,
        log_folder: Path,
        choose_port: Callable[[], int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.repository = repository
        self._base_environment = os.environ if environment is None else environment
        self._choose_port = choose_port or _free_port
        self._log = ServerLog(log_folder / "triton.log")
        self._lock = threading.Lock()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def start(self, report: Report) -> Endpoint:
        wheel = find_wheel()
        if wheel is None:
            raise ServerStartError(
                f"The embedded server does not exist for {platform.system()} on {platform.machine()}.",
                hint="Use the container: --runtime container.",
            )
        leftovers.sweep()
        for _ in range(PORT_TRIES):
            try:
                return self._start(wheel, report)
            except _PortTaken:
                self.stop()
            except BaseException:
                self.stop()
                raise
        raise ServerStartError(
            "No free port was found for Triton's metrics.", hint="Close what holds the ports and start again."
        )

    def stop(self) -> None:
        with self._lock:
            process, self._keeper = self._keeper, None
            folder, self._folder = self._folder, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._log.end()
        if folder is not None and folder.exists():
            leftovers.remove(folder)

    def wait(self, timeout: float | None = None) -> bool:
        process = self._keeper
        if process is None:
            return True
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def replace(self, component: str, engines: Sequence[Engine]) -> None:
        if self._folder is not None:
            self.repository.replace(component, engines, self._folder / "models")

    def recent_log(self) -> list[str]:
        return self._log.recent()

    def _start(self, wheel: Wheel, report: Report) -> Endpoint:
        report("Preparing the models", None)
        try:
            self._folder = folder = leftovers.name()
            lock = leftovers.make(folder)
            try:
                self._fill(folder, wheel)
                report("Starting Triton", 0.0)
                self._keeper = process = self._launch(folder, wheel, lock)
            finally:
                os.close(lock)
        except OSError as error:
            raise ServerStartError(
                f"The server's files could not be written to {tempfile.gettempdir()}: {why(error)}.",
                hint="Make room there, or set TMPDIR to a folder with room, and start again.",
            ) from error
        assert process.stdout is not None
        self._log.follow(process.stdout)
        self._wait_until_ready(report)
        return Endpoint(_socket(folder))

    def _fill(self, folder: Path, wheel: Wheel) -> None:
        """Write all that Triton reads into its run-time folder."""
        if len(_socket(folder)) > LONGEST_SOCKET:
            raise ServerStartError(
                f"The path of the temporary folder, {folder.parent}, is too long.",
                hint="Set TMPDIR to a shorter one and start again.",
            )
        shutil.copytree(wheel.server / "backends", folder / "backends")
        stubs = wheel.server / "python_backend_stubs"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy2(stubs / version / "triton_python_backend_stub", folder / "backends" / "python")
        self.repository.write(folder / "models")

    def _launch(self, folder: Path, wheel: Wheel, lock: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(folder), *self._command(wheel, folder)],
            env=_environment(wheel, folder, self._base_environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is the studio's to handle, in order
            pass_fds=[lock],
        )

    def _command(self, wheel: Wheel, folder: Path) -> list[str]:
        return [
            str(wheel.server / "bin" / "tritonserver"),
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={folder / 'backends'}",
            f"--cache-directory={wheel.server / 'caches'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.repository.models),
            "--disable-auto-complete-config",  # each model's process would be started twice
            "--strict-readiness=false",
            "--allow-http=false",
            f"--grpc-address=unix:{folder}/grpc",
            "--grpc-port=0",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._choose_port()}",
            f"--backend-config=python,shm-region-prefix-name={folder.name}-",
            f"--backend-config=python,stub-timeout-seconds={STUB_SECONDS}",
            f"--exit-timeout-secs={int(keeper.GRACE_SECONDS)}",
        ]

    def _wait_until_ready(self, report: Report) -> None:
        """Follow the log: it tells of each model as it is loaded, and of the end of the start."""
        models = self.repository.models
        loaded = 0
        for line in self._log.lines(STALL_SECONDS):
            if "successfully loaded" in line:
                loaded += 1
                report(f"Loading models: {loaded} of {len(models)}", loaded / len(models))
            elif "failed to start Metrics service" in line or "already in use" in line:
                raise _PortTaken
            elif "Started Metrics Service" in line:  # the last thing Triton starts
                return
        reason = self._log.reason() or "It gave no reason."
        raise ServerStartError(
            f"Triton did not start. {reason}",
            state=f"Its whole log is in {self._log.path}.",
            hint="Run `python launcher.py doctor` to see what is missing.",
        )


class _PortTaken(Exception):
    """Someone else took the port between our choosing and Triton's opening it."""


def _environment(wheel: Wheel, folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    # The stub takes the first python3 on PATH for its interpreter, and ignores PYTHONPATH.
    # Passwords and tokens are none of the server's business.
    kept = {name: value for name, value in base.items() if not name.startswith(("STUDIO_", "HF_", "PYTHON"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(
            [str(wheel.libraries), sysconfig.get_config_var("LIBDIR"), kept.get("LD_LIBRARY_PATH", "")]
        ).rstrip(os.pathsep),
        leftovers.MARK: folder.name,
    }


def _socket(folder: Path) -> str:
    # gRPC reads all of it as the socket's path, the port that Triton appends included.
    return f"unix:{folder}/grpc:0"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
