"""What the Docker engine answers when it refuses, as sentences with a way out."""

from __future__ import annotations

import re
from typing import NamedTuple

from studio.errors import DockerError

_STATE = "Nothing of the studio is left running in Docker."


class Refusal(NamedTuple):
    """A pattern in Docker's own words, what it means, and what mends it."""

    pattern: str
    what: str
    hint: str


# The first match counts. Wordings are the engine's own, of versions 20 to 29.
REFUSALS = (
    Refusal(
        r"could not select device driver|failed to discover GPU vendor from CDI|unresolvable CDI devices"
        r"|no known GPU vendor",
        "Docker cannot hand the GPU to a container.",
        "Install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker` and "
        "restart Docker; on Docker 29 or WSL also `sudo nvidia-ctk cdi generate "
        "--output=/etc/cdi/nvidia.yaml` (add `--mode=wsl` there). Docker from Snap cannot do it.",
    ),
    Refusal(
        r"unsatisfied condition: cuda\s*>=\s*(?P<cuda>[\d.]+)",
        "The NVIDIA driver is too old for this image, which wants CUDA {cuda}.",
        "Update the driver to 580 or newer (Windows: 580.88), or keep it and choose the older image with "
        "STUDIO_CONTAINER_IMAGE=nvcr.io/nvidia/tritonserver:25.07-py3.",
    ),
    Refusal(
        r"nvidia-container-cli.*(nvml|driver)|Failed to initialize NVML",
        "The NVIDIA driver of this machine is not loaded.",
        "Run `nvidia-smi`: it says what is wrong; a restart after a driver update often mends it.",
    ),
    Refusal(
        r"FileNotFoundError|No such file or directory.*docker|cannot find the file specified",
        "Docker is not installed, or its engine is not running.",
        "Start Docker (Docker Desktop, or `sudo systemctl start docker`), or use `--runtime embedded`.",
    ),
    Refusal(
        r"Connection ?refused|Cannot connect to the Docker daemon|docker_engine.*(pipe|system cannot)",
        "The Docker engine is not running.",
        "Start Docker (Docker Desktop, or `sudo systemctl start docker`), or use `--runtime embedded`.",
    ),
    Refusal(
        r"PermissionError|permission denied while trying to connect",
        "This user may not talk to the Docker engine.",
        "Run `sudo usermod -aG docker $USER`, log out and in again; or use `--runtime embedded`.",
    ),
    Refusal(
        r"port is already allocated|address already in use",
        "The port for the container is taken.",
        "Press start again: another free port is taken then.",
    ),
    Refusal(
        r"forbidden by its access permissions",
        "Windows keeps that port for itself (a Hyper-V reservation).",
        "Run `net stop winnat`, then `net start winnat` as administrator, and start again.",
    ),
    Refusal(
        r"no space left on device",
        "The disk that Docker keeps its images on is full.",
        "Free some room (`docker system df` shows the use, `docker system prune` frees it) and start again.",
    ),
    Refusal(
        r"manifest unknown|manifest for .* not found|pull access denied|No such image"
        r"|repository .* not found",
        "There is no such image.",
        "Check STUDIO_CONTAINER_IMAGE; leave it unset for the studio's own choice.",
    ),
    Refusal(
        r"unauthorized|authentication required|denied: requested access",
        "The image registry wants a login.",
        "Run `docker login nvcr.io` (user name `$oauthtoken`, password an NGC API key) and start again.",
    ),
    Refusal(
        r"HTTPConnectionPool.*Read timed out",
        "The Docker engine did not answer in time.",
        "It may be busy: start again in a minute, or restart Docker; or use `--runtime embedded`.",
    ),
    Refusal(
        r"no such host|i/o timeout|TLS handshake timeout|network is unreachable|dial tcp|ReadTimeout"
        r"|request canceled|Temporary failure in name resolution|unexpected EOF|connection reset",
        "The image registry could not be reached.",
        "Check the network and start again: layers that arrived are kept; or use `--runtime embedded`.",
    ),
)


def explain(raw: object, *, state: str = _STATE) -> DockerError:
    """The error a person sees for what Docker said; its own words where no sentence of ours fits."""
    text = str(raw)
    for refusal in REFUSALS:
        if found := re.search(refusal.pattern, text, re.IGNORECASE | re.DOTALL):
            return DockerError(refusal.what.format(**found.groupdict()), state=state, hint=refusal.hint)
    return DockerError(
        f"Docker refused: {text.strip().rstrip('.')}.",
        state=state,
        hint="`docker info` shows the engine's health; `--runtime embedded` works without it.",
    )


def explain_exit(code: int, out_of_memory: bool, reason: str) -> DockerError:
    """Why a container of ours ended: its exit status as Docker reports it, and what its log says last."""
    causes = {
        125: "Docker could not start it",
        127: "the image has no `tritonserver`",
        134: "Triton aborted",
        137: "it was killed from outside",
        139: "Triton crashed with a segmentation fault",
        143: "it was told to stop",
    }
    cause = "it ran out of memory" if out_of_memory else causes.get(code, f"Triton ended with status {code}")
    hint = (
        "Close other programs or give Docker more memory (Docker Desktop: Settings, Resources)."
        if out_of_memory
        else "The log has the details; `python launcher.py doctor` checks the machine."
    )
    return DockerError(
        f"The container ended: {cause}.", state=f"Its log says: {reason}" if reason else _STATE, hint=hint
    )
