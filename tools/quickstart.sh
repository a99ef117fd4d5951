#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a clean clone to a trained detector: make the environment, train on the
# embedded data set, print the table of AP and draw boxes on a held-out image.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup_env.sh

config=configs/yolov8_fasternet_n_digits.py
work_dir=work_dirs/quickstart
.venv/bin/python tools/train.py $config --work-dir $work_dir
best=$(ls -t $work_dir/best_*.pth | head -n 1)
.venv/bin/python tools/test.py $config "$best" --work-dir $work_dir
.venv/bin/python demo/image_demo.py data/digits/val/0009.jpg $config "$best" \
    --out-dir $work_dir
