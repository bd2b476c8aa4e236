"""The boot story: settings → machine → checkpoint → engines → server → page → stop."""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from studio import __version__, machine, running
from studio.dispatch import Dispatcher, Lane
from studio.engines.components import DENOISER
from studio.engines.swap import Swapper
from studio.generate import Studio
from studio.gpu import Gpu, environment
from studio.history import History
from studio.machine import Machine
from studio.prepare import Prepared, prepare
from studio.server.base import Server
from studio.server.supervise import Supervisor
from studio.settings import CHECKOUT, Settings
from studio.terminal import Terminal
from triton_models.diffusion.manifest import ModelInfo

logger = logging.getLogger(__name__)

PORTS_TRIED = 20


@dataclass(frozen=True)
class Open:
    """A studio that can draw: over one server, or over one for each GPU."""

    studio: Studio
    studios: tuple[Studio, ...]
    supervisors: tuple[Supervisor, ...]
    ready: Prepared


def serve(settings: Settings, *, port_asked: bool, terminal: Terminal) -> int:
    """Open the studio's page and keep it open until the person ends it; returns the exit status."""
    terminal.line(f"Triton Studio {__version__}")
    with running.registered(settings.cache_dir, serves=serves(settings)) as entry:
        if not port_asked and (elders := entry.elders()):
            return _point_to(elders[0], settings, terminal)
        with until_stopped(terminal) as wait, ExitStack() as stack:
            page_module = _import_meanwhile("studio.ui.app")
            opened = stack.enter_context(open_studio(settings, terminal))
            engines = stack.enter_context(better_engines(opened, terminal))
            with terminal.stage("Page") as stage:
                port = free_port(settings.port, terminal)
                page = page_module().launch(
                    opened.studio,
                    port=port,
                    listen=settings.listen,
                    share=settings.share,
                    password=settings.password,
                    browser=settings.browser,
                    workers=len(opened.studios),
                    engines=engines,
                    report=stage.report,
                )
                stack.callback(page.close)
                stage.outcome = page.url
            opened.supervisors[0].follow(
                lambda server: entry.tell(
                    url=page.url, address=server.address, data_dir=str(settings.data_dir)
                )
            )
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
        supervisors: list[Supervisor] = []
        with terminal.stage("Server") as stage:
            for gpu in here.gpus or (None,):
                server = _server(settings, here, gpu, ready)
                supervisors.append(stack.enter_context(Supervisor(server, tell=terminal.line)))
                supervisors[-1].start(stage.report)
            stage.outcome = f"{supervisors[0].server.description}: {here.runtime_reason}"
        info = ModelInfo.load(ready.folder)
        studios = [Studio(supervisor, info, history) for supervisor in supervisors]
        for studio in studios:
            stack.callback(studio.close)
        yield Open(_as_one(studios, supervisors), tuple(studios), tuple(supervisors), ready)


def _as_one(studios: Sequence[Studio], supervisors: Sequence[Supervisor]) -> Studio:
    """The only studio, or one that gives each request to the GPU that is done with it first."""
    if len(studios) == 1:
        return studios[0]

    def lane(studio: Studio, supervisor: Supervisor) -> Lane:
        def has_engine(width: int, height: int, num_images: int) -> bool:
            scale = studio.model.vae_scale_factor
            first = next(iter(supervisor.repository.engines[DENOISER.name]))
            return bool(first.key) and first.admits(num_images, height // scale, width // scale)

        return Lane(supervisor.server.description, studio, has_engine)

    lanes = [lane(*pair) for pair in zip(studios, supervisors, strict=True)]
    return cast(Studio, Dispatcher(lanes))  # it stands where a Studio stands


@contextmanager
def better_engines(opened: Open, terminal: Terminal) -> Iterator[Swapper | None]:
    """While the block lasts, make the GPU's engines when nobody draws, and bring them in. None: no GPU."""
    ready = opened.ready
    if ready.workshop is None:
        yield None
        return
    with Swapper(
        ready.workshop,
        ready.export_for_gpu,
        opened.supervisors,
        busy=lambda: any(studio.busy for studio in opened.studios),
        tell=terminal.line,
    ) as swapper:
        swapper.want(ready.usual)
        yield swapper


def serves(settings: Settings) -> str:
    """What a server was started for: two studios with the same text draw the same pictures."""
    named = Path(settings.model).expanduser()
    model = str(named.resolve()) if settings.model and named.exists() else settings.model or "bundled"
    return " ".join((model, settings.engine, settings.gpu, settings.runtime))


def _server(settings: Settings, here: Machine, gpu: Gpu | None, ready: Prepared) -> Server:
    repository = ready.repository()
    logs = settings.data_dir / "logs" / (f"gpu{gpu.index}" if gpu else "")
    if here.runtime == machine.CONTAINER:
        from studio.server import container  # docker is imported only where it is used

        how = container.Settings(settings.cache_dir, owner=str(CHECKOUT), image=settings.image, gpu=gpu)
        return container.ContainerServer(repository, logs, how)
    from studio.server.embedded import Embedded

    if (
        settings.cache_dir / "containers"
    ).is_dir():  # an earlier studio used Docker, and may have been killed
        from studio.server import container

        container.sweep(settings.cache_dir, owner=str(CHECKOUT))
    return Embedded(repository, logs, environment=environment((gpu,) if gpu else ()))


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
            while not never.wait(0.5):  # Windows does not interrupt a wait
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
