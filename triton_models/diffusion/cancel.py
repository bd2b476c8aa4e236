"""How a pipeline tells the denoiser, another process, to stop: Triton 2.51 does not pass cancellation on.

A token is a listening socket with an abstract name. The denoiser connects; the pipeline cancels by
closing it. The kernel closes it too when the pipeline dies, and nothing is left on any disk.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from types import TracebackType


class CancelToken:
    """The pipeline's end. ``name`` goes to the denoiser with the job."""

    def __init__(self) -> None:
        self.name = f"triton-studio-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"\0{self.name}")
        self._socket.listen(1)

    def cancel(self) -> None:
        """Stop whoever holds the name; once is enough, again does no harm."""
        self._socket.close()

    def __enter__(self) -> CancelToken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class CancelWatch:
    """The denoiser's end. An empty name is a job that nobody cancels."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._never = not name
        if name:
            with contextlib.suppress(OSError):  # cancelled already: recv() will fail as well
                self._socket.connect(f"\0{name}")
            self._socket.setblocking(False)

    def cancelled(self) -> bool:
        """Whether the token was cancelled, or its process is gone."""
        if self._never:
            return False
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True  # the end of the stream or a broken one: nothing is ever sent

    def close(self) -> None:
        """Give the connection back."""
        self._socket.close()
