"""A prompt to pictures, in one answer."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.serving.pipeline import PlainPipeline


class TritonPythonModel(PlainPipeline):
    """Triton looks for this name."""
