"""TensorRT's Python module as far as the builder calls it, in the shape of version FAKE_TRT (8.6, 10 or 11).

What a version lacks is not there. The plan that it "builds" is a JSON of how it was asked to.
FAKE_TRT_FAULT makes it fail: ``oom:MIB`` above that workspace, ``kill``, ``slow`` or an error's text.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import time
from pathlib import Path

_MAJOR = os.environ.get("FAKE_TRT", "11").split(".")[0]
_FAULT = os.environ.get("FAKE_TRT_FAULT", "")
__version__ = {"8": "8.6.0", "10": "10.13.3.9", "11": "11.3.0.99"}[_MAJOR]

float32, float16, int64 = "float32", "float16", "int64"


def _flags(name: str, by_version: dict[str, str]) -> enum.IntEnum:
    return enum.IntEnum(name, by_version[_MAJOR].split(), start=0)


NetworkDefinitionCreationFlag = _flags(
    "NetworkDefinitionCreationFlag",
    {"8": "EXPLICIT_BATCH", "10": "EXPLICIT_BATCH STRONGLY_TYPED", "11": "STRONGLY_TYPED"},
)
BuilderFlag = _flags(
    "BuilderFlag",
    {
        "8": "FP16 TF32 OBEY_PRECISION_CONSTRAINTS REFIT",
        "10": "FP16 BF16 TF32 OBEY_PRECISION_CONSTRAINTS REFIT REFIT_IDENTICAL",
        "11": "TF32 REFIT REFIT_IDENTICAL",
    },
)
TacticSource = _flags(
    "TacticSource",
    {
        "8": "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS",
        "10": "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS",
        "11": "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS",
    },
)
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

        def __str__(self) -> str:
            return f"Severity.{self.name}"


if _MAJOR != "8":

    class IProgressMonitor:
        pass


class _Tensor:
    def __init__(self, name, shape, dtype="float32"):
        self.name, self.shape, self.dtype = name, shape, dtype


class _Layer:
    def __init__(self, name, dtype):
        self.name = name
        self.num_outputs = 1
        self.output = _Tensor(name, (1,), dtype)
        self.pinned = []

    def get_output(self, slot):
        return self.output

    def set_output_type(self, slot, dtype):
        self.pinned.append(dtype)


class _Network:
    def __init__(self):
        self.inputs = [_Tensor("latents", (-1, 4, -1, -1)), _Tensor("timestep", (1,))]
        names = {"/unet/conv": float16, "/update/Mul": float32, "/update/Shape": int64, "/guide/Sum": float32}
        self.layers = [_Layer(name, dtype) for name, dtype in names.items()]
        self.num_inputs = len(self.inputs)
        self.num_layers = len(self.layers)
        self.num_outputs = 1

    def get_input(self, index):
        return self.inputs[index]

    def get_layer(self, index):
        return self.layers[index]


class _Profile(dict):
    def set_shape(self, name, low, best, high):
        self[name] = [low, best, high]


class _TimingCache:
    def __init__(self, content):
        self.content = bytes(content)

    def serialize(self):
        return self.content + b"+"


class _Config:
    def __init__(self):
        self.flags = {"TF32"}
        self.workspace = 0
        self.profiles = []
        self.tactics = None
        self.timing = None
        self.builder_optimization_level = 3

    def set_memory_pool_limit(self, pool, size):
        self.workspace = size

    def set_flag(self, flag):
        self.flags.add(flag.name)

    def clear_flag(self, flag):
        self.flags.discard(flag.name)

    def set_tactic_sources(self, sources):
        self.tactics = [source.name for source in TacticSource if sources >> int(source) & 1]

    def create_timing_cache(self, content):
        return _TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.timing = cache
        return cache.content != b"of another GPU"

    def get_timing_cache(self):
        return self.timing

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        self.network_flags = [flag.name for flag in NetworkDefinitionCreationFlag if flags >> int(flag) & 1]
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        monitor = getattr(config, "progress_monitor", None)
        if monitor:
            monitor.phase_start("Building engine", None, 6)
        if _FAULT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if _FAULT.startswith("oom") and config.workspace > int(_FAULT.split(":")[1]) << 20:
            self.logger.log(ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (requested size too large)")
            return None
        if _FAULT == "slow":
            for step in range(600):
                time.sleep(0.1)
                if monitor and not monitor.step_complete("Building engine", step // 200):
                    return None
        if _FAULT and not _FAULT.startswith("oom"):
            self.logger.log(ILogger.Severity.ERROR, _FAULT)
            return None
        asked = {
            "network_flags": self.network_flags,
            "flags": sorted(config.flags),
            "workspace": config.workspace,
            "inputs": {tensor.name: list(tensor.shape) for tensor in network.inputs},
            "profiles": config.profiles,
            "tactics": config.tactics,
            "level": config.builder_optimization_level,
            "timing": config.timing.content.decode() if config.timing else None,
            "pinned": [layer.name for layer in network.layers if layer.pinned],
            "monitored": monitor is not None,
        }
        return json.dumps(asked).encode()


class OnnxParserFlag(enum.IntEnum):
    NATIVE_INSTANCENORM = 0


class OnnxParser:
    def __init__(self, network, logger):
        self.num_errors = 0
        self.flags = []

    def set_flag(self, flag):
        self.flags.append(flag)

    def parse_from_file(self, file):
        assert self.flags == [OnnxParserFlag.NATIVE_INSTANCENORM]
        return Path(file).read_bytes() == b"graph"
