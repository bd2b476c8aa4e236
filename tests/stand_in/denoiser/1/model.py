"""Counts steps at the pace of a slow CPU, and misbehaves where the prompt says so."""

import json
import os
import pathlib
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
STEP_SECONDS = 0.05


class TritonPythonModel:
    def initialize(self, args):
        engines = json.loads((pathlib.Path(__file__).parent / "engines.json").read_text())["engines"]
        if any(engine["file"] == "broken" for engine in engines):
            raise ValueError("the engine is broken")

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            prompt = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy()[0]
            steps = int(pb_utils.get_input_tensor_by_name(request, "num_inference_steps").as_numpy()[0])
            for step in range(1, steps + 1):
                time.sleep(STEP_SECONDS)
                if prompt == b"crash" and step == 3:
                    os.abort()
                counted = pb_utils.Tensor("step", np.array([step, steps], np.int32))
                sender.send(pb_utils.InferenceResponse([counted]))
            sender.send(flags=FINAL)
