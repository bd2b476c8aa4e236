"""Where engines can be had: a folder, a web address, or a repository on the Hugging Face Hub.

A place gives bytes and is believed in nothing: its caller checks size and checksum.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from studio.engines.index import INDEX, MOST_INDEX_BYTES
from studio.errors import BuildCancelled, FetchError, why

CHUNK = 1 << 20
ATTEMPTS = 4
SECONDS_BETWEEN_ATTEMPTS = 0.5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
HUB = "hf:"

Done = Callable[[int], None]  # told how many bytes are there


class Place(Protocol):
    """Somewhere that the user named."""

    name: str

    def index(self) -> bytes:
        """The content of index.json. Raises FetchError."""

    def fetch(self, file: str, size: int, into: Path, done: Done, cancel: threading.Event) -> None:
        """Complete ``into`` to the ``size`` bytes of ``file``; what is there already counts.

        Raises FetchError, BuildCancelled and, for the disk it writes to, OSError.
        """


def place(named: str) -> Place:
    """The place that ``named`` means: ``http://…``, ``https://…``, ``hf:owner/repository`` or a folder."""
    if named.startswith(("http://", "https://")):
        return Web(named, lambda file: f"{named.rstrip('/')}/{file}", {})
    if named.startswith(HUB):
        return _hub(named)
    return Folder(Path(named).expanduser())


class Folder:
    """A folder, such as one on a shared drive."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def index(self) -> bytes:
        with self._told(), (self._path / INDEX).open("rb") as file:
            return file.read(MOST_INDEX_BYTES)

    def fetch(self, file: str, size: int, into: Path, done: Done, cancel: threading.Event) -> None:
        with self._told():
            source = (self._path / file).resolve(strict=True)
            if not source.is_relative_to(self._path.resolve()):
                raise FetchError(f"{file} leads out of {self.name}.", state="Nothing was taken from there.")
            reader = source.open("rb")
        with reader, into.open("ab") as writer:
            reader.seek(writer.tell())
            _pour(iter(lambda: reader.read(CHUNK), b""), writer, size, done, cancel)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FetchError(
                f"{self.name} cannot be read: {why(error)}.",
                state="Nothing was taken from there.",
            ) from error


class Web:
    """An address that serves index.json and the plans beside it."""

    def __init__(self, name: str, address: Callable[[str], str], headers: dict[str, str]) -> None:
        self.name = name
        self._address = address
        self._headers = headers

    def index(self) -> bytes:
        content = b""
        try:
            with self._get(INDEX, {}) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MOST_INDEX_BYTES:
                        raise FetchError(f"The index of {self.name} is far too large to be one.")
        except httpx.HTTPError as error:
            raise self._failed(INDEX, error) from error
        return content

    def fetch(self, file: str, size: int, into: Path, done: Done, cancel: threading.Event) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._continue(file, size, into, done, cancel)
                return
            except httpx.TransportError as error:  # dropped: what came so far is kept
                if attempt + 1 == ATTEMPTS:
                    raise self._failed(file, error) from error
                cancel.wait(SECONDS_BETWEEN_ATTEMPTS * 2**attempt)
            except httpx.HTTPError as error:
                raise self._failed(file, error) from error

    def _continue(self, file: str, size: int, into: Path, done: Done, cancel: threading.Event) -> None:
        there = into.stat().st_size if into.exists() else 0
        if there >= size:
            return
        with self._get(file, {"Range": f"bytes={there}-"} if there else {}) as response:
            continues = response.status_code == httpx.codes.PARTIAL_CONTENT
            with into.open("ab" if continues else "wb") as writer:
                # As it comes: what is buffered would be lost with the line.
                _pour(response.iter_raw(), writer, size, done, cancel)

    @contextmanager
    def _get(self, file: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        plain = {"Accept-Encoding": "identity", **self._headers, **headers}
        address = self._address(file)
        with httpx.stream("GET", address, headers=plain, timeout=TIMEOUT, follow_redirects=True) as response:
            response.raise_for_status()
            yield response

    def _failed(self, file: str, error: httpx.HTTPError) -> FetchError:
        if isinstance(error, httpx.HTTPStatusError):
            reason = f"it answered {error.response.status_code} {error.response.reason_phrase}"
        else:
            reason = str(error) or type(error).__name__
        return FetchError(
            f"{file} could not be had from {self.name}: {reason}.",
            state="What came so far is kept; the next start goes on from there.",
            hint="Or leave the place out of --engine-sources.",
        )


def _hub(named: str) -> Web:
    """``hf:owner/repository`` or ``hf:owner/repository@revision``, with the user's own Hub token if any."""
    from huggingface_hub import get_token, hf_hub_url

    repository, _, revision = named.removeprefix(HUB).partition("@")

    def address(file: str) -> str:
        endpoint = os.environ.get("HF_ENDPOINT")
        return str(hf_hub_url(repository, file, revision=revision or None, endpoint=endpoint))

    token = get_token()
    return Web(named, address, {"Authorization": f"Bearer {token}"} if token else {})


def _pour(chunks: Iterable[bytes], writer: BinaryIO, size: int, done: Done, cancel: threading.Event) -> None:
    """Write chunks as they come, and none after more than ``size`` bytes are there."""
    for chunk in chunks:
        if cancel.is_set():
            raise BuildCancelled("The download was cancelled.", state="What came so far is kept.")
        writer.write(chunk)
        done(writer.tell())
        if writer.tell() > size:
            return
