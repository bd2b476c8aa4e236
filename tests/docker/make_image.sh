#!/usr/bin/env bash
# Makes a local image that holds a real CPU Triton, for testing where no image registry is reached:
#   tests/docker/make_image.sh TAG PYTHON
# PYTHON is a CPython 3.11 that has nvidia-pytriton, numpy, onnxruntime, openvino and tokenizers (the studio's own
# .venv). The image looks like NVIDIA's: /opt/tritonserver with `tritonserver` on PATH. Needs root,
# debootstrap, tar and a Docker engine; takes about two minutes.
set -euo pipefail
tag=$1; python=$2
site=$("$python" -c 'import pytriton; print(pytriton.__path__[0].rsplit("/", 1)[0])')
root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,libpython3.11,python3-pip,nginx-light bookworm "$root" >/dev/null
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}

triton="$root/opt/tritonserver"
mkdir -p "$triton/lib"
cp -r "$site"/pytriton/tritonserver/{bin,backends,caches} "$triton"
cp "$site"/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub "$triton/backends/python/"
cp "$site"/nvidia_pytriton.libs/* "$triton/lib/"
chmod +x "$triton/bin/tritonserver" "$triton/backends/python/triton_python_backend_stub"

packages="$root/usr/local/lib/python3.11/dist-packages"
for name in numpy onnxruntime openvino flatbuffers; do
    cp -r "$site/$name" "$site/$name"-*.dist-info "$packages/"
done
cp -r "$site"/numpy.libs "$packages/"

# tokenizers is left to the studio to add: as a wheel that pip finds in the image, with no index.
"$python" - "$site" "$root/wheels" <<'PYTHON'
import sys, zipfile, pathlib
site, wheels = map(pathlib.Path, sys.argv[1:])
wheels.mkdir()
info = next(site.glob("tokenizers-*.dist-info"))
tag = next(line[5:] for line in (info / "WHEEL").read_text().splitlines() if line.startswith("Tag: "))
with zipfile.ZipFile(wheels / f"{info.name.removesuffix('.dist-info')}-{tag}.whl", "w") as wheel:
    for folder in (site / "tokenizers", info):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                wheel.write(path, path.relative_to(site))
PYTHON

tar -C "$root" -c . | docker import \
    --change 'ENV PATH=/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LD_LIBRARY_PATH=/opt/tritonserver/lib' \
    --change 'ENV PIP_NO_INDEX=1 PIP_NO_DEPS=1 PIP_FIND_LINKS=/wheels' \
    --change 'WORKDIR /opt/tritonserver' - "$tag" >/dev/null
docker image inspect --format '{{.Size}} bytes' "$tag"
