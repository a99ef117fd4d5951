# SPDX-License-Identifier: GPL-3.0-only
"""The C++ program, built and run, against Predictor with the same files."""
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from mmfasternet.deploy import Predictor

pytestmark = pytest.mark.skipif(
    not shutil.which('cmake'), reason='the C++ example needs cmake')


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp('build')
    done = subprocess.run(
        ['cmake', '-S', 'examples/cpp', '-B', folder], capture_output=True,
        text=True)
    assert done.returncode == 0, done.stderr
    if 'ncnn not found' in done.stderr:
        pytest.skip('no library of ncnn: set the variable ncnn_DIR to its '
                    'lib/cmake/ncnn')
    subprocess.run(['cmake', '--build', folder], check=True)
    return folder / 'detect_ncnn'


# of the input's width or height, so that nothing is interpolated
@pytest.mark.parametrize('shape', [(64, 64), (40, 64), (64, 51)])
def test_it_finds_what_the_predictor_finds(program, exported, tmp_path,
                                           shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image[8:30, 10:40] = 255, 0, 0
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), image)
    file = exported['any.ncnn.param']
    done = subprocess.run([program, path, file, '0.05'], capture_output=True,
                          text=True, check=True)
    got = np.array([line.split() for line in done.stdout.splitlines()], float)
    found = Predictor(file, score_thr=0.05)(path)[0].pred_instances
    assert len(got) == len(found) > 5
    assert len({*got[:, 0]}) == 2
    np.testing.assert_array_equal(got[:, 0], found.labels)
    np.testing.assert_allclose(got[:, 1], found.scores, atol=1e-4)
    np.testing.assert_allclose(got[:, 2:], found.bboxes, atol=0.02)


def test_it_says_how_it_is_called(program, exported, tmp_path):
    for words in ((), ('none.png', exported['any.ncnn.param'])):
        done = subprocess.run([program, *words], capture_output=True,
                              text=True)
        assert done.returncode == 1
        assert 'IMAGE PARAM [SCORE]' in done.stderr
