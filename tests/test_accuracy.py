# SPDX-License-Identifier: GPL-3.0-only
"""Whole trainings; minutes each: ``bash tests/run.sh -m slow``."""
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

pytestmark = pytest.mark.slow


def train(config, work_dir, seed):
    """The last evaluation of a training run."""
    subprocess.run([
        sys.executable, 'tools/train.py', f'configs/{config}', '--work-dir',
        work_dir, '--cfg-options', f'randomness.seed={seed}'
    ], check=True)
    (log, ) = work_dir.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row for row in rows if 'coco/bbox_mAP' in row][-1]


def test_digits(tmp_path):
    """Ten classes at three sizes in about five minutes on two cores."""
    result = train('yolov8_fasternet_n_digits.py', tmp_path, seed=0)
    assert result['coco/bbox_mAP_50'] >= 0.90


def test_bccd(tmp_path):
    """A prototype with T0, heavier than n, had 0.536 in as many epochs."""
    if not Path('data/bccd').exists():
        pytest.skip('needs data/bccd: see the README')
    results = [
        train('yolov8_fasternet_n_bccd.py', tmp_path / str(seed), seed)
        for seed in (1, 2, 3)
    ]
    assert mean(r['coco/bbox_mAP'] for r in results) >= 0.53
