"""The whole sampling loop."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.serving.denoiser import DenoiserModel


class TritonPythonModel(DenoiserModel):
    """Triton looks for this name."""
