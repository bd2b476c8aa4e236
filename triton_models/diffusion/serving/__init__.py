"""What Triton's Python backend calls: the glue between its requests and the modules above.

Only these modules import ``triton_python_backend_utils``, which exists inside Triton alone.
"""
