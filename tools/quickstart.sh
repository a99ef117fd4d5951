#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a clean clone to a trained detector: make the environment, train on the
# embedded data set, print the table of AP and draw boxes on a held-out image.
# Interrupted, it goes on where it stopped; run again, it shows the results.
# Environment: STACK and PYTHON, see tools/setup_env.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "[quickstart] $*"; }

config=configs/yolov8_fasternet_n_digits.py
work_dir=work_dirs/quickstart
image=data/digits/val/0009.jpg
venv=.venv
[ "${STACK:-onedl}" = onedl ] || venv=.venv-$STACK
python=$venv/bin/python

say "1 of 4: the environment in $venv (minutes the first time)"
bash tools/setup_env.sh
best() { ls -t $work_dir/best_*.pth | head -n 1; }
if [ ! -e $work_dir/finished ]; then
    say "2 of 4: training on 1,000 images of handwritten digits, 15 epochs"
    say "  (about 10 minutes; Ctrl-C stops it, the same command goes on)"
    $python tools/train.py $config --work-dir $work_dir --resume
    say "3 of 4: AP on 200 images that it has not seen"
    $python tools/test.py $config "$(best)" --work-dir $work_dir |
        tee $work_dir/test.txt
    say "4 of 4: boxes on one of them"
    $python demo/image_demo.py $image $config "$(best)" --out-dir $work_dir
    touch $work_dir/finished
fi

say "AP by class:"
grep -E '^[+|]' $work_dir/test.txt
say "boxes: $work_dir/vis/$(basename $image)"
say "checkpoint: $(best)"
cat <<END
[quickstart] what now:
  source $venv/bin/activate
  python tools/prepare.py FOLDER configs/mine.py                # your own images and labels
  python demo/web_demo.py $config $(best)    # in the browser (pip install -e .[web])
  python tools/deploy/export.py $config $(best) detector.onnx
END
