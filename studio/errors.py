"""Every error that a person can meet.

StudioError
├── SettingsError        an option or environment variable with an impossible value
├── RequestError         a field of an image request that cannot be drawn
├── CheckpointError      a checkpoint that is missing, of another family, or unsafe
├── EngineError
│   ├── ExportError      torch → ONNX
│   ├── BuildError       ONNX → engine
│   │   └── BuildCancelled
│   ├── CacheError       an engine on disk that cannot be used
│   └── FetchError       an engine elsewhere that cannot be used
├── ServerError
│   ├── ServerStartError the server did not come up
│   ├── ServerLostError  the server or a model died under a request
│   └── DockerError      the container engine refused
├── SaveError            a picture that could not be written
└── Cancelled            the artist pressed Cancel; not a fault
"""

from __future__ import annotations

import shutil


def why(error: OSError) -> str:
    """The system's own words for what went wrong with a file, or with the first of a tree of files."""
    if isinstance(error, shutil.Error):  # (source, target, reason) for each file
        return str(error.args[0][0][2]).partition(": '")[0]
    return error.strerror or str(error)


class StudioError(Exception):
    """One sentence of what happened, and one each for the state it leaves and what to do next."""

    def __init__(self, what: str, *, state: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.state = state
        self.hint = hint

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.state, self.hint) if part)


class SettingsError(StudioError):
    """An option or environment variable has a value that cannot be used."""


class RequestError(StudioError):
    """A field of an image request is outside what can be drawn."""


class CheckpointError(StudioError):
    """A checkpoint is missing, unsafe, or of a family that is not supported."""


class EngineError(StudioError):
    """An engine could not be made or used."""


class ExportError(EngineError):
    """A component could not be exported to ONNX, or the export differs from torch."""


class BuildError(EngineError):
    """An engine could not be built."""


class BuildCancelled(BuildError):
    """The build was stopped on request."""


class CacheError(EngineError):
    """An engine on disk is damaged, foreign, or cannot be written."""


class FetchError(EngineError):
    """An engine from elsewhere could not be had or must not be used."""


class ServerError(StudioError):
    """The inference server misbehaved."""


class ServerStartError(ServerError):
    """The inference server did not come up."""


class ServerLostError(ServerError):
    """The server, or a model in it, died under a request."""


class DockerError(ServerError):
    """The container engine refused."""


class SaveError(StudioError):
    """A picture could not be written; it is still held in memory."""


class Cancelled(StudioError):
    """The artist pressed Cancel."""
