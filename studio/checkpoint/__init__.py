"""From what the artist names to a checkpoint on disk: the bundled one, a folder, a file, or a Hub id."""

from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.resolve import load, resolve

__all__ = ["Checkpoint", "load", "resolve"]
