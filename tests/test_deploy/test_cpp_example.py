# SPDX-License-Identifier: GPL-3.0-only
"""The C++ programs, built and run, against Predictor with the same files."""
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from mmfasternet.deploy import Predictor

pytestmark = pytest.mark.skipif(
    not shutil.which('cmake'), reason='the C++ examples need cmake')


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp('build')
    for command in (['-S', 'examples/cpp', '-B'], ['--build']):
        done = subprocess.run(['cmake', *command, folder],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def run(build):
    def call(name, *words, status=0):
        if not (build / name).exists():
            pytest.skip(f'no library for {name}: set CMAKE_PREFIX_PATH to '
                        'the folders of ncnn, ONNX Runtime and OpenCV')
        done = subprocess.run([build / name, *words], capture_output=True,
                              text=True)
        assert done.returncode == status, done.stderr
        return done

    return call


def check(printed, found):
    got = np.array([line.split() for line in printed.splitlines()], float)
    assert len(got) == len(found) > 5
    assert len({*got[:, 0]}) == 2
    np.testing.assert_array_equal(got[:, 0], found.labels)
    np.testing.assert_allclose(got[:, 1], found.scores, atol=1e-4)
    np.testing.assert_allclose(got[:, 2:], found.bboxes, atol=0.02)


def write(path, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image[8:30, 10:40] = 255, 0, 0
    cv2.imwrite(str(path), image)
    return path


# of the input's width or height, so that nothing is interpolated
@pytest.mark.parametrize('shape', [(64, 64), (40, 64), (64, 51)])
def test_ncnn_finds_what_the_predictor_finds(run, exported, tmp_path, shape):
    path, file = tmp_path / 'image.png', exported['any.ncnn.param']
    done = run('detect_ncnn', write(path, shape), file, '0.05')
    check(done.stdout, Predictor(file, score_thr=0.05)(path)[0].pred_instances)


# shrunk, enlarged, and with sides that are no whole numbers then
@pytest.mark.parametrize('shape', [(64, 64), (120, 97), (50, 131), (45, 33)])
def test_onnx_finds_what_the_predictor_finds(run, exported, tmp_path, shape):
    path, file = tmp_path / 'image.png', exported['nms.onnx']
    done = run('detect_onnx', write(path, shape), file)
    check(done.stdout, Predictor(file)(path)[0].pred_instances)


def test_they_say_how_they_are_called(run, exported):
    for words in ((), ('none.png', exported['any.ncnn.param'])):
        done = run('detect_ncnn', *words, status=1)
        assert 'IMAGE PARAM [SCORE]' in done.stderr
    for words in ((), ('none.png', exported['nms.onnx'])):
        assert 'IMAGE MODEL' in run('detect_onnx', *words, status=1).stderr


def test_onnx_names_a_file_that_it_cannot_run(run, exported, tmp_path):
    image, broken = write(tmp_path / 'a.png', (64, 64)), tmp_path / 'a.onnx'
    broken.write_bytes(b'no network')
    assert 'error: ' in run('detect_onnx', image, broken, status=1).stderr
    done = run('detect_onnx', image, exported['any.onnx'], status=1)
    assert 'is not of export.py --nms' in done.stderr
