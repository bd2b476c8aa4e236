"""Triton Studio: text and pictures to pictures, through NVIDIA Triton, on the machine at hand."""

__version__ = "0.1.0"
