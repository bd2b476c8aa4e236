"""The engine builder: a program of its own, run as ``python -m studio.engines.builder``.

Only TensorRT and the standard library are needed, on CPython 3.10 or newer, so that any interpreter that has
a TensorRT can run it.
"""
