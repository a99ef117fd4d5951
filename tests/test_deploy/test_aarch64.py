# SPDX-License-Identifier: GPL-3.0-only
"""Exported files on an ARM processor, which QEMU emulates.

``bash tests/aarch64.sh`` makes what they run in and runs them. The processor,
a Neoverse N1, computes in fp16, too. What it takes says nothing of a real one.
"""
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_predictor import assert_same, expected

from mmfasternet.deploy import Predictor, load_backend
from mmfasternet.deploy.engines import Network

QEMU = shutil.which('qemu-aarch64-static') or shutil.which('qemu-aarch64')
ROOT = os.environ.get('AARCH64_ROOT')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not QEMU, reason='apt install qemu-user-static'),
    pytest.mark.skipif(not ROOT, reason='bash tests/aarch64.sh')]
RUN = '''
import platform, sys
import numpy as np
from mmfasternet.deploy.engines import engine_of
path, precision, images, outs = sys.argv[1:]
assert platform.machine() == 'aarch64'
network = engine_of(path).open(path, precision, threads=1)
np.savez(outs, *network(np.load(images)))
'''


class EmulatedNetwork(Network):
    """A file that an engine's wheel for ARM runs, by this repository."""

    def __init__(self, path, precision, folder):
        super().__init__(path, [(None, ) * 4], 'uint8', None)
        self.precision, self.folder = precision, folder

    def __call__(self, images):
        files = [self.folder / name for name in ('images.npy', 'outs.npz')]
        np.save(files[0], images)
        done = subprocess.run(
            [QEMU, '-L', ROOT, f'{ROOT}/usr/bin/python3', '-c', RUN,
             self.name, self.precision, *files],
            env=dict(QEMU_CPU='neoverse-n1',
                     PYTHONPATH=f'{Path().resolve()}:{ROOT}/site'),
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(files[1]) as outs:
            return [*outs.values()]


@pytest.mark.parametrize('name', ['any.ncnn.param', 'fixed.tflite'])
def test_it_finds_the_same_boxes(small, exported, tmp_path, name):
    predictor = Predictor(exported[name])
    here = predictor(small.images)
    predictor.backend.network = EmulatedNetwork(exported[name], 'fp32',
                                                tmp_path)
    there = predictor(small.images, batch_size=len(small.images))
    for path, one, other in zip(small.images, here, there):
        for wanted in (one.pred_instances, expected(small, path)):
            assert_same(other.pred_instances, wanted, atol=1e-4)


def test_fp16_is_near(small, exported, tmp_path):
    """What ncnn computes in by default on a phone."""
    path = exported['any.ncnn.param']
    predictor = Predictor(path)
    images = np.stack([predictor.letterbox(path)[0] for path in small.images])
    wanted = load_backend(path)(images)
    backend = load_backend(path)
    backend.network = EmulatedNetwork(path, 'fp16', tmp_path)
    got = backend(images)
    # the sums of a convolution are in fp16, too
    assert 0 < np.abs(got[1] - wanted[1]).mean() < 0.02
    assert len(np.unique(got[0])) > 0.9 * got[0].size
