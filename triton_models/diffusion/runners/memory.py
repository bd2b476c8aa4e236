"""A size too large for this machine fails, instead of the kernel killing whatever is largest."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import EngineUnusable

SHARE = 0.9  # of the free memory that a run may take
_FAILED = re.compile(r"bad_alloc|[Ff]ailed to allocate|[Cc]annot allocate")


def limit_to_free(share: float = SHARE) -> None:
    """Let this process allocate no more than a share of what is free now; to be called before each run."""
    free = int(share * _kilobytes("meminfo", "MemAvailable"))
    limit = (_kilobytes("self/status", "VmData") + free) * 1024
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


@contextmanager
def said_plainly() -> Iterator[None]:
    """Turn a runtime's failed allocation, which each wraps in its own exception, into EngineUnusable."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or _FAILED.search(str(error)):
            raise EngineUnusable("so many pixels at once need more memory than is free") from error
        raise


def _kilobytes(file: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path("/proc", file).read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/{file} has no {field}")
    return int(found[1])
