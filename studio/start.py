"""The boot story: settings → machine → checkpoint → engines → server → page → stop."""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio import __version__, machine, running
from studio.checkpoint import Checkpoint, resolve
from studio.engines import cpu
from studio.engines.export import export
from studio.generate import Studio
from studio.gpu import Gpu
from studio.history import History
from studio.machine import Machine
from studio.server.base import Endpoint, Server
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from studio.settings import CHECKOUT, Settings
from studio.terminal import Terminal
from triton_models.diffusion.manifest import Engine, ModelInfo

logger = logging.getLogger(__name__)

PORTS_TRIED = 20


@dataclass(frozen=True)
class Prepared:
    """A checkpoint ready to be served."""

    checkpoint: Checkpoint
    folder: Path  # of model.json, the tokenizer and the ONNX files
    engines: Mapping[str, Sequence[Engine]]


@dataclass(frozen=True)
class Open:
    """A studio that can draw. ``endpoint`` is where its first server listens."""

    studio: Studio
    model_folder: Path
    endpoint: Endpoint


def serve(settings: Settings, *, port_asked: bool, terminal: Terminal) -> int:
    """Open the studio's page and keep it open until the person ends it; returns the exit status."""
    terminal.line(f"Triton Studio {__version__}")
    with running.registered(settings.cache_dir, serves=serves(settings)) as entry:
        if not port_asked and (elders := entry.elders()):
            return _point_to(elders[0], settings, terminal)
        with until_stopped(terminal) as wait, ExitStack() as stack:
            page_module = _import_meanwhile("studio.ui.app")
            opened = stack.enter_context(open_studio(settings, terminal))
            with terminal.stage("Page") as stage:
                port = free_port(settings.port, terminal)
                page = page_module().launch(
                    opened.studio,
                    port=port,
                    listen=settings.listen,
                    share=settings.share,
                    password=settings.password,
                    browser=settings.browser,
                    report=stage.report,
                )
                stack.callback(page.close)
                stage.outcome = page.url
            entry.tell(url=page.url, address=opened.endpoint.address, data_dir=str(settings.data_dir))
            _say_how_to_enter(page, terminal)
            wait()
            terminal.line("Stopping.")
    return 0


@contextmanager
def open_studio(settings: Settings, terminal: Terminal) -> Iterator[Open]:
    """Boot all but the page; everything is stopped and removed when the block is left."""
    with terminal.stage("Machine") as stage:
        here = machine.look(settings)
        stage.outcome = str(here)
    ready = prepare(settings, here, terminal)
    with ExitStack() as stack:
        history = stack.enter_context(History(settings.data_dir))
        for notice in history.notices:
            terminal.line(notice)
        with terminal.stage("Server") as stage:
            supervisor = stack.enter_context(Supervisor(_server(settings, here, ready), tell=terminal.line))
            supervisor.start(stage.report)
            stage.outcome = f"{supervisor.server.description}: {here.runtime_reason}"
        studio = Studio(supervisor, ModelInfo.load(ready.folder), history)
        stack.callback(studio.close)
        yield Open(studio, ready.folder, supervisor.endpoint)


def open_repository(settings: Settings, terminal: Terminal) -> tuple[Repository, bool]:
    """What a server of these settings would serve, and whether on a GPU."""
    here = machine.look(settings)
    ready = prepare(settings, here, terminal)
    compiled = settings.cache_dir / "compiled"
    return Repository(ready.folder, ready.engines, compiled, threads(settings)), bool(here.gpus)


def prepare(settings: Settings, here: Machine, terminal: Terminal) -> Prepared:
    """The checkpoint, exported, and the engines that will run it."""
    with terminal.stage("Checkpoint") as stage:
        checkpoint = resolve(settings.model, stage.report)
        folder = export(checkpoint, settings.cache_dir, stage.report)
        width, height = checkpoint.default_size
        stage.outcome = f"{checkpoint.name}, {width} × {height}"
    with terminal.stage("Engine") as stage:
        wanted = settings.engine if settings.engine in cpu.FLAVOURS else "auto"
        choice = cpu.choose(wanted, folder, settings.cache_dir, threads(settings), stage.report)
        stage.outcome = f"{choice.label}: {choice.reason}"
    if here.engine.missing:
        terminal.line(f"{here.engine.flavour_reason}. To have it: {here.engine.missing}")
    return Prepared(checkpoint, folder, cpu.engines(choice))


def threads(settings: Settings) -> int:
    """How many threads a CPU engine gets."""
    return settings.threads or cpu.physical_cores()


def serves(settings: Settings) -> str:
    """What a server was started for: two studios with the same text draw the same pictures."""
    return " ".join((settings.model or "bundled", settings.engine, settings.gpu, settings.runtime))


def _server(settings: Settings, here: Machine, ready: Prepared) -> Server:
    compiled = settings.cache_dir / "compiled"
    compiled.mkdir(parents=True, exist_ok=True)
    repository = Repository(ready.folder, ready.engines, compiled, threads(settings))
    logs = settings.data_dir / "logs"
    if here.runtime == machine.CONTAINER:
        return _container(settings, here.gpu, repository, logs)
    from studio.server.embedded import Embedded

    return Embedded(repository, logs)


def _container(settings: Settings, gpu: Gpu | None, repository: Repository, logs: Path) -> Server:
    from studio.server import container  # docker is imported only where it is used

    how = container.Settings(settings.cache_dir, owner=str(CHECKOUT), image=settings.image, gpu=gpu)
    return container.ContainerServer(repository, logs, how)


# Starting and stopping


@contextmanager
def until_stopped(terminal: Terminal) -> Iterator[Callable[[], None]]:
    """Ctrl-C, SIGTERM and a closed terminal end the block, once, as KeyboardInterrupt; ``wait()`` awaits it.

    While the block cleans up, further signals are taken note of and not obeyed.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    obeyed = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # nohup

    def again(*_: object) -> None:
        terminal.line("Already stopping; a few seconds.")

    def stop(*_: object) -> None:
        for number in obeyed:
            signal.signal(number, again)
        raise KeyboardInterrupt

    for number in obeyed:
        signal.signal(number, stop)
    never = threading.Event()

    def wait() -> None:
        with suppress(KeyboardInterrupt):
            while not never.wait(3600):
                pass

    try:
        yield wait
    finally:
        for number, handler in obeyed.items():
            signal.signal(number, handler)


def free_port(port: int, terminal: Terminal) -> int:
    """``port``, or the next free one after it, which is said."""
    for candidate in (*range(port, min(port + PORTS_TRIED, 65536)), 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", candidate)) as listener:
            found = int(listener.getsockname()[1])
            if found != port:
                terminal.line(f"Port {port} is taken by another program; using {found}.")
            return found
    raise AssertionError("the kernel gives a port to whoever asks for any")


def _import_meanwhile(name: str) -> Callable[[], Any]:
    """Begin to import a slow module; the function returned waits for it."""
    thread = threading.Thread(
        target=importlib.import_module, args=(name,), name=f"import {name}", daemon=True
    )
    thread.start()

    def module() -> Any:
        thread.join()
        return importlib.import_module(name)  # raises here what the thread ran into

    return module


def _point_to(first: running.Instance, settings: Settings, terminal: Terminal) -> int:
    """Say where the studio that already runs is, and bring its page up."""
    while not first.url:
        terminal.passing("Another studio is just starting; waiting for its page")
        threading.Event().wait(0.3)
        alive = {one.pid: one for one in running.running(settings.cache_dir)}
        if first.pid not in alive:
            terminal.line("The other studio ended before its page was there. Start again.")
            return 1
        first = alive[first.pid]
    terminal.line(f"The studio already runs: {first.url}  (--port opens a second one)")
    if settings.browser:
        import webbrowser

        webbrowser.open(first.url)
    return 0


def _say_how_to_enter(page: Any, terminal: Terminal) -> None:
    if page.share_url:
        terminal.line(f"Public link  {page.share_url}")
    if page.password:
        terminal.line(f"Name artist, password {page.password}")
    terminal.line("Ctrl-C stops it.")
