"""Make TensorRT 8.6.0 read group norms as layers of its own: ``native_norms.py ONNX_FOLDER``.

Its ONNX parser turns each InstanceNormalization, which is how a group norm is exported, into a plugin
that needs cuDNN. Later releases can be told otherwise (``OnnxParserFlag.NATIVE_INSTANCENORM``); 8.6.0
has that switch in C++ alone. GroupNormalization it always reads as a layer of its own, and with no
groups given that is the same thing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from studio.engines.verified import seal  # noqa: E402


def main() -> None:
    """Rewrite every graph of the folder, which only TensorRT's parser can read from then on."""
    folder = Path(sys.argv[1])
    for file in sorted(folder.glob("*.onnx")):
        model = onnx.load(file, load_external_data=False)
        for node in model.graph.node:
            if node.op_type == "InstanceNormalization":
                node.op_type = "GroupNormalization"
        file.write_bytes(model.SerializeToString())
    seal(folder)


if __name__ == "__main__":
    main()
