"""Latents to a picture."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.serving.component import ComponentModel


class TritonPythonModel(ComponentModel):
    """Triton looks for this name."""
