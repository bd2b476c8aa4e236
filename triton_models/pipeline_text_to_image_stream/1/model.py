"""A prompt to pictures, step by step."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.serving.pipeline import StreamingPipeline


class TritonPythonModel(StreamingPipeline):
    """Triton looks for this name."""
