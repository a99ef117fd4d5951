# SPDX-License-Identifier: GPL-3.0-only
"""LiteRT: one file, of one size, with its text behind the network."""
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_script
from test_export import assert_equal, batch
from test_ncnn import check_fp16
from test_predictor import assert_same, expected
from test_quantization import photos

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.deploy import (
    DeployInfo,
    Predictor,
    export,
    load_backend,
    load_deployed,
)
from mmfasternet.deploy.engines import ENGINES
from mmfasternet.deploy.exporting import compare, node_counts
from mmfasternet.deploy.quantization import quantize, sensitivity

pytest.importorskip('ai_edge_litert', reason='pip install ai-edge-litert')
pytest.importorskip('litert_torch', reason='pip install litert-torch')
from mmfasternet.deploy.engines.litert import LiteRTNetwork  # noqa: E402


@pytest.fixture(scope='module')
def deployed(small):
    return load_deployed(small.cfg, small.checkpoint)


def test_it_computes_what_pytorch_does(exported, deployed, small):
    network = load_backend(exported['fixed.tflite'], threads=1)
    assert network.network.shape == (2, 3, 64, 64)
    images = batch(2, 64, 64)
    wanted = [x.numpy() for x in deployed(torch.from_numpy(images))]
    assert_equal(network(images), wanted, 64)
    for path, sample in zip(small.images, Predictor(exported['fixed.tflite'])(
            small.images)):
        assert_same(sample.pred_instances, expected(small, path))
    kinds = dict(node_counts(exported['fixed.tflite']))
    assert kinds['CONV_2D'] == sum(
        isinstance(m, torch.nn.Conv2d) for m in deployed.modules())
    assert 'DELEGATE' not in kinds


def test_threads_do_not_share_its_memory():
    """Two runs would meet between set_tensor and invoke."""
    class Interpreter:
        meet = threading.Barrier(2)

        def get_input_details(self):
            return [dict(shape=[1, 1, 1, 1], dtype=np.float32, index=0)]

        def get_output_details(self):
            return [dict(name='output_0', index=1)]

        def set_tensor(self, index, images):
            self.images = images
            with suppress(threading.BrokenBarrierError):
                self.meet.wait(0.2)

        def invoke(self):
            self.out = 2 * self.images

        def get_tensor(self, index):
            return self.out

    network = LiteRTNetwork(Interpreter(), 'a.tflite', None)
    images = [np.full((1, 1, 1, 1), i, np.float32) for i in (3, 4)]
    with ThreadPoolExecutor(2) as pool:
        outs = [out.item() for out, in pool.map(network, images)]
    assert outs == [6, 8]


class Pair(torch.nn.Module):
    """Two weights alike in all but their values, in channels_last."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(
            torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.layers(x)


def test_weights_in_another_order(tmp_path):
    """litert-torch gave the second one the values of the first."""
    torch.manual_seed(0)
    network, images = Pair().eval(), torch.randn(1, 8, 6, 7)
    path = tmp_path / 'a.tflite'
    ENGINES['litert'].write(network, images, path)
    opened = ENGINES['litert'].open(path)
    assert (opened.shape, opened.dtype, opened.text) == (
        (1, 8, 6, 7), 'float32', None)
    np.testing.assert_allclose(opened(images.numpy())[0],
                               network(images).detach(), atol=1e-5)
    assert not network.layers[0].weight.is_contiguous()  # as it was


def test_weights_in_fp16(deployed, small, tmp_path):
    whole, half = check_fp16(deployed, DeployInfo.from_config(small.cfg),
                             tmp_path / 'a.tflite')
    assert 0.5 < half / whole < 0.7  # of a graph that stays as it is


def test_int8(exported, tmp_path):
    out = tmp_path / 'int8.tflite'
    quantize(exported['fixed.tflite'], out, photos(16))
    network, reference = (load_backend(path) for path in (
        out, exported['fixed.tflite']))
    assert network.info == reference.info
    images = photos(2, seed=1)
    got, wanted = network(images), reference(images)
    error = np.sqrt(((got[1] - wanted[1])**2).mean()) / wanted[1].std()
    assert 0 < error < 0.2
    assert len(np.unique(got[0])) == got[0].size  # decoded in float
    kinds = dict(node_counts(out))
    assert kinds['CONV_2D'] == dict(node_counts(exported['fixed.tflite']))[
        'CONV_2D']
    # the outputs: of each kind and level
    assert kinds['DEQUANTIZE'] == 6
    tensors = network.network.interpreter.get_tensor_details()
    weights = [t for t in tensors if len(t['shape']) == 4 and
               len(t['quantization_parameters']['scales']) > 1]
    assert len(weights) == kinds['CONV_2D']
    assert all(t['dtype'] == np.int8 and len(
        t['quantization_parameters']['scales']) == t['shape'][0]
               for t in weights)


def test_parts_have_no_names(exported, tmp_path):
    path = exported['fixed.tflite']
    with pytest.raises(ValueError, match='its parts cannot be kept in float'):
        quantize(path, tmp_path / 'a.tflite', photos(2), ['head.cls_preds.0'])
    with pytest.raises(ValueError, match='cannot be quantised one by one'):
        sensitivity(path, photos(2))
    assert not any(tmp_path.iterdir())


def test_the_tool_for_int8(small, exported, tmp_path):
    done = run_script(
        'tools/deploy/quantize.py', small.config, exported['fixed.tflite'],
        tmp_path / 'int8.tflite', '--images', small.folder, '--runs', 1,
        '--no-test')
    assert 'int8, calibrated on 6 images' in done.stdout
    assert 'ms in int8' in done.stdout and 'parts' not in done.stdout


def test_another_checkpoint_is_noticed(exported, deployed):
    """What export.py fails by."""
    info = load_backend(exported['fixed.tflite']).info
    images = batch(4, 64, 64)
    for worst, limit in compare(deployed, info, exported['fixed.tflite'],
                                images).values():
        assert worst <= limit
    weight = deployed.head.cls_preds[0][-1].bias
    weight += 0.1
    try:
        (worst, limit) = compare(deployed, info, exported['fixed.tflite'],
                                 images)['scores']
        assert worst > limit
    finally:
        weight -= 0.1


def test_what_is_wrong_is_named(exported, deployed, small, tmp_path):
    data = Path(exported['fixed.tflite']).read_bytes()
    path = tmp_path / 'a.tflite'
    for wrong in (b'', b'\0' * 999, data[:1000], data[:len(data) // 2],
                  data[1:]):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match='a.tflite cannot be read'):
            load_backend(path)
    shutil.copy(exported['fixed.tflite'], path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ['mmfasternet.json']
        end = len(data) - sum(i.compress_size for i in archive.infolist())
    path.write_bytes(data[:end - 200])
    with pytest.raises(CheckpointError):
        load_backend(path)
    with pytest.raises(ValueError, match='LiteRT runs on the CPU here'):
        load_backend(exported['fixed.tflite'], device='cuda:0')
    for options, words in ((dict(dynamic=True), 'leave out --dynamic for'),
                           (dict(nms=True), 'NMS can be part of .onnx and')):
        with pytest.raises(ValueError, match=words):
            export(deployed, DeployInfo.from_config(small.cfg),
                   tmp_path / 'b.tflite', **options)
        assert not (tmp_path / 'b.tflite').exists()
