#!/usr/bin/env bash
# Every measurement that needs a GPU, in less than ten minutes on one data-centre GPU:
#
#     bash benchmarks/gpu.sh OUTPUT [DATA]
#
# OUTPUT gets a JSON file for each measurement (with day, versions and the name of the device) and log.txt.
# DATA is a folder in COCO layout for a training with its loading; without it, synthetic pictures are used.
#
# It needs python3 with torch for CUDA, Triton, NumPy and Pillow, and torchvision for the comparisons. Nothing is
# installed, nothing downloaded. What else is missing (jaxtyping, rich, faster-coco-eval; beartype, pytest
# and hypothesis for the tests) is taken from wheels in the folder $WHEELS, by default .wheels, which git ignores:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#         --dest .wheels jaxtyping wadler-lindig beartype rich faster-coco-eval pytest hypothesis sortedcontainers
#
# A step that fails or takes too long is logged, and the next one runs; the script then exits with status 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=${1:?expected a folder for the figures: bash benchmarks/gpu.sh OUTPUT [DATA]} data=${2:-}
mkdir -p "$output"
output=$(realpath "$output") work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec > >(tee "$output/log.txt") 2>&1

for wheel in "${WHEELS:-.wheels}"/*.whl; do
    [[ -e $wheel ]] && python3 -m zipfile -e "$wheel" "$work/site"
done
export PYTHONPATH="$PWD/src:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 FAILED="$work/failed"
maskrcnn=(python3 -c 'import sys; from maskrcnn.cli import main; sys.exit(main())')

# step SECONDS COMMAND…: runs COMMAND for at most SECONDS, and at most until second 570 of the script
step() {
    local left=$((570 - SECONDS))
    printf '\n[%3d s] %s\n' "$SECONDS" "${*:2}"
    timeout $((left < 1 ? 1 : left < $1 ? left : $1)) "${@:2}" || { echo "FAILED ($?): ${*:2}"; touch "$FAILED"; }
}

step 30 python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
step 120 python3 -m pytest -q -m gpu -p no:cacheprovider tests
[[ -d tests/kernels ]] && step 90 python3 -m pytest -q -p no:cacheprovider tests/kernels
[[ -f benchmarks/kernels.py ]] && step 60 python3 benchmarks/kernels.py --json "$output/kernels.json"

bench=("${maskrcnn[@]}" bench --device cuda --precision bf16 --size 800x1344 --against torchvision)
for batch in 1 8; do
    step 60 "${bench[@]}" --batch "$batch" --repeats 20 --json "$output/inference_$batch.json"
done
step 60 "${bench[@]}" --batch 1 --capture --repeats 20 --json "$output/inference_1_captured.json"
step 120 python3 benchmarks/train_torchvision.py --device cuda --precision bf16 --size 800x1344 --batch 8 \
    --repeats 10 --json "$output/training.json"

if [[ -z $data ]]; then
    data=$work/synthetic
    step 60 python3 -c \
        "from maskrcnn.data.synthetic import synthetic_dataset; synthetic_dataset('$data', train=64, val=8, size=640)"
fi
step 30 python3 benchmarks/loader.py "$data" --pictures 32 --repeats 3 --workers 12 --set batch_size=8 \
    --json "$output/loader.json"
step 150 "${maskrcnn[@]}" train "$data" --recipe resnet50_fpn --device cuda --output "$work/run" --set \
    precision=bf16 batch_size=8 workers=12 time_limit=1 log_every=10 eval_every=none
step 30 python3 - "$work/run/metrics.jsonl" "$output/train.json" <<'PYTHON'
import json, sys
from datetime import date
from pathlib import Path

import torch

lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
steps = [line for line in lines if "loss" in line]
first, last = steps[len(steps) // 3], steps[-1]  # the first steps choose kernels and start the workers
rate = 8 * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
figures = {
    "date": date.today().isoformat(),
    "gpu": torch.cuda.get_device_name(),
    "torch": torch.__version__,
    "pictures_per_second": round(rate, 1),
    "steps": last["step"],
    "losses": [steps[0]["loss"], last["loss"]],
}
Path(sys.argv[2]).write_text(json.dumps(figures, indent=1) + "\n")
print(figures)
PYTHON

printf '\n[%3d s] done\n' "$SECONDS"
[[ ! -e $FAILED ]]
