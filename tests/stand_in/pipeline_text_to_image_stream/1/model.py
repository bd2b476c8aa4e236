"""The tensors of the real pipeline over the stand-in denoiser: a grey picture of the seed's shade."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self._answer(request, request.get_response_sender())

    def _answer(self, request, sender):
        prompt = pb_utils.get_input_tensor_by_name(request, "prompt")
        seed = int(pb_utils.get_input_tensor_by_name(request, "seed").as_numpy()[0])
        if prompt.as_numpy()[0] == b"refuse":
            refusal = pb_utils.TritonError("seed must not be refused.", pb_utils.TritonError.INVALID_ARG)
            sender.send(pb_utils.InferenceResponse(error=refusal), flags=FINAL)
            return
        if prompt.as_numpy()[0] == b"raise":
            raise KeyError("a mistake in the model")
        steps = pb_utils.get_input_tensor_by_name(request, "num_inference_steps")
        call = pb_utils.InferenceRequest(
            model_name="denoiser", requested_output_names=["step"], inputs=[prompt, steps]
        )
        for answer in call.exec(decoupled=True):
            if answer.has_error():
                sender.send(pb_utils.InferenceResponse(error=answer.error()), flags=FINAL)
                return
            if answer.output_tensors():
                step = pb_utils.get_output_tensor_by_name(answer, "step")
                preview = pb_utils.Tensor("preview", np.zeros((1, 4, 4, 3), np.uint8))
                sender.send(pb_utils.InferenceResponse([step, preview]))
        decode = {"stage": "decode", "start": 0.0, "seconds": 0.1}
        said = {"spans": [decode], "engine": "stand-in", "warnings": ["A warning."]}
        picture = np.full((1, 32, 32, 3), seed % 256, np.uint8)
        outputs = [
            pb_utils.Tensor("image", picture),
            pb_utils.Tensor("seed", np.array([seed], np.int64)),
            pb_utils.Tensor("timings", np.array([json.dumps(said).encode()], object)),
        ]
        sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL)
