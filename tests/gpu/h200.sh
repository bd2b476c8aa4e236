#!/usr/bin/env bash
# Figures on one NVIDIA GPU whose host reaches no registry, stage by stage.
#
#   h200.sh kit PARTS    CPython 3.10 with TensorRT 8.6, Triton and requirements.txt, from a packed kit (README.md)
#   h200.sh export       SD 1.5's geometry with random weights as a checkpoint and as ONNX (any Python with torch)
#   h200.sh build        every engine, at most four at once: more would spoil each other's timing (README.md)
#   h200.sh measure      end to end through Triton, each engine alone, and the bundled checkpoint's pictures
#   h200.sh diffusers    the same requests by diffusers, eager and compiled
#   h200.sh all          all of them after the kit, one after the other
#
# BUNDLED is the bundled checkpoint's float16 export, after native_norms.py, and PICTURES what a CPU drew with its
# float32 export:
#   python tests/gpu/serve.py pictures FLOAT32_EXPORT --cache CACHE --pixels 256 --engine onnxruntime --file PICTURES
# All that is made stays in WORK; figures and logs are copied to OUT.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
WORK=${WORK:-/tmp/h200} OUT=${OUT:-/tmp/h200/out}
BUNDLED=${BUNDLED:-$WORK/bundled} PICTURES=${PICTURES:-$WORK/pictures.npz}
LEVEL=${LEVEL:-3} BATCH_LEVEL=${BATCH_LEVEL:-3}
kit=$WORK/kit cache=$WORK/cache
mkdir -p "$WORK" "$OUT" "$cache"

sd15() { ls -d "$WORK"/export/onnx/*-fp16-*/; }
serve() { (. "$kit/env.sh" && python3 "$here/serve.py" "$@" --cache "$cache"); }

# TensorRT 8.6's bindings are for CPython 3.10; the studio is written for 3.11. These are what it lacks.
teach_python310() {
  cat > "$kit/lib/python3.10/site-packages/sitecustomize.py" <<'PY'
import datetime, hashlib

def file_digest(file, name):
    digest = hashlib.new(name)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest

datetime.UTC, hashlib.file_digest = datetime.timezone.utc, file_digest
PY
  cat >> "$kit/lib/python3.10/subprocess.py" <<'PY'

class Popen(Popen):
    def __init__(self, *args, process_group=None, preexec_fn=None, **options):
        def begin():
            os.setpgid(0, process_group)
            if preexec_fn is not None:
                preexec_fn()
        super().__init__(*args, preexec_fn=preexec_fn if process_group is None else begin, **options)
PY
}

case $1 in
  export)
    python3 "$here/sd15.py" write "$WORK/sd15"
    python3 "$here/sd15.py" export "$WORK/sd15" "$WORK/export"
    python3 "$here/native_norms.py" "$(sd15)"
    ;;
  diffusers)
    python3 "$here/sd15.py" diffusers "$WORK/sd15" "$OUT/diffusers.json"
    ;;
  all)
    for stage in export build measure diffusers; do date; "$0" "$stage"; done
    ;;
  kit)
    mkdir -p "$WORK/packed" && cat "$2"/part.* | tar -xf - -C "$WORK/packed"
    "$WORK/packed/unpack.sh" "$kit"
    teach_python310
    ;;
  build)
    serve build "$(sd15)" --only denoiser --level "$LEVEL" & builds=($!)
    serve build "$(sd15)" --only denoiser --batch 4 --batch-level "$BATCH_LEVEL" & builds+=($!)
    serve build "$(sd15)" --only vae_decoder --level "$LEVEL" & builds+=($!)
    serve build "$(sd15)" --only text_encoder vae_encoder --level "$LEVEL"
    serve build "$BUNDLED" --pixels 256 --level "$LEVEL"
    for build in "${builds[@]}"; do wait "$build"; done
    ;;
  measure)
    (. "$kit/env.sh" && cd "$here/../.." && python3 -m studio.cli doctor || true)
    failed=0  # one that fails must not keep the others from being measured
    serve measure "$(sd15)" --file "$OUT/batch1.json" --level "$LEVEL" || failed=1
    serve pictures "$BUNDLED" --pixels 256 --file "$PICTURES" --level "$LEVEL" || failed=1
    serve measure "$(sd15)" --batch 4 --file "$OUT/batch4.json" --level "$LEVEL" --batch-level "$BATCH_LEVEL" || failed=1
    nvidia-smi
    exit $failed
    ;;
esac
