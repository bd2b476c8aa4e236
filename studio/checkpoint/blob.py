"""One file of a Hub repository into the Hub's cache, going on where an earlier attempt stopped.

The Hub's client starts a file over when the process has ended in between, which hurts at gigabytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def fetch_blob(hub_id: str, name: str, commit: str, progress: Any) -> None:
    """Put the content of file ``name`` where the Hub's client looks for it, unless it is there.

    ``progress`` is a tqdm class. Raises what the Hub's client raises, and OSError.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(hub_id, name, revision=commit)
    about = get_hf_file_metadata(url)
    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model")
    blob = repository / "blobs" / str(about.etag)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.studio-part")
    with part.open("ab") as file:
        if about.size is None or file.tell() > about.size:
            file.truncate(0)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=about.size,
            tqdm_class=progress,
        )
    if not _matches(part, str(about.etag)):
        part.unlink()
        raise OSError(f"{name} arrived damaged")
    part.replace(blob)


def _matches(part: Path, etag: str) -> bool:
    """Large files' tags are the SHA-256 of their content; small ones' are git's and are not checked."""
    if len(etag) != 64:
        return True
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == etag
