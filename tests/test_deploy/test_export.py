# SPDX-License-Identifier: GPL-3.0-only
"""Exported files against the network that they were made of."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_script
from sklearn.datasets import load_sample_images

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import load_config
from mmfasternet.deploy import (
    DeployInfo,
    export,
    load_backend,
    load_deployed,
)
from mmfasternet.deploy.engines import ENGINES, engine_of
from mmfasternet.deploy.engines.pytorch import PyTorchNetwork
from mmfasternet.deploy.example_images import example_images
from mmfasternet.deploy.exporting import compare, node_counts

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def batch(number, height, width, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, (number, 3, height, width), dtype=np.uint8)


@pytest.fixture(scope='module')
def deployed(small):
    return load_deployed(small.cfg, small.checkpoint)


@pytest.fixture(scope='module')
def info(small):
    return DeployInfo.from_config(small.cfg)


def assert_equal(got, wanted, height):
    # sums of float32 in another order; seen: 2e-6 of the greatest
    np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=1e-4 * height)
    np.testing.assert_allclose(got[1], wanted[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize('name, backend', [
    ('any.onnx', None),
    ('any.onnx', 'openvino'),
    ('any.xml', None),
    ('any.ncnn.param', None),
])
def test_any_batch_and_size(exported, deployed, name, backend):
    network = load_backend(exported[name], backend)
    assert network.info.shape == (None, None, None)
    for shape in ((1, 64, 64), (3, 32, 96), (2, 128, 32)):
        images = batch(*shape)
        wanted = [x.numpy() for x in deployed(torch.from_numpy(images))]
        assert wanted[1].std() > 0.05
        assert_equal(network(images), wanted, max(shape))


@pytest.mark.parametrize('name', ['fixed.onnx', 'fixed.xml',
                                  'fixed.ncnn.param'])
def test_fixed_shape(exported, deployed, name):
    network = load_backend(exported[name])
    images = batch(2, 64, 64)
    wanted = [x.numpy() for x in deployed(torch.from_numpy(images))]
    assert_equal(network(images), wanted, 64)
    with pytest.raises(ValueError, match='for the height 64, got 96.*--dyn'):
        network(batch(2, 96, 64))
    with pytest.raises(ValueError, match='for the batch size 2, got 1'):
        network(images[:1])


def test_graph_is_as_small_as_the_network(exported, deployed, tmp_path):
    model = onnx.load(exported['any.onnx'])
    convolutions = [m for m in deployed.modules()
                    if isinstance(m, torch.nn.Conv2d)]
    counts = dict(node_counts(exported['any.onnx']))
    assert counts['Conv'] == len(convolutions)
    assert not {'BatchNormalization', 'ScatterND', 'ScatterElements', 'Loop',
                'If'} & {*counts}
    # layers have the names of their modules
    modules = dict(deployed.named_modules())
    assert all(isinstance(modules[node.name], torch.nn.Conv2d)
               for node in model.graph.node if node.op_type == 'Conv')
    # also those of one that runs twice
    layer = torch.nn.Conv2d(3, 3, 1)
    twice = torch.nn.Sequential(layer, torch.nn.ReLU(), layer).eval()
    ENGINES['onnxruntime'].write(
        twice, torch.zeros(1, 3, 4, 4), tmp_path / 'twice.onnx')
    first, second = [
        node.name for node in onnx.load(tmp_path / 'twice.onnx').graph.node
        if node.op_type == 'Conv']
    assert first in ('0', '2') and second == f'{first}.2'
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [
        'batch', 3, 'height', 'width'
    ]


@pytest.mark.parametrize('suffix', ['torchscript', 'pt2'])
def test_says_what_makes_formats_that_nothing_runs(deployed, info, tmp_path,
                                                   suffix):
    path = tmp_path / f'detector.{suffix}'
    with pytest.raises(ValueError, match=f'Nothing here runs .{suffix}; '):
        export(deployed, info, path)
    path.touch()
    with pytest.raises(ValueError, match=f'Nothing here runs .{suffix}; '):
        load_backend(path)


@pytest.mark.parametrize('opset', [17, 20])
def test_the_opset_is_that_asked_for(deployed, info, tmp_path, opset):
    path = tmp_path / 'detector.onnx'
    export(deployed, info, path, (32, 64), opset=opset, nms=opset == 17)
    assert [(entry.domain, entry.version)
            for entry in onnx.load(path).opset_import
            if not entry.domain] == [('', opset)]
    load_backend(path)(batch(1, 32, 64))


def test_an_opset_that_cannot_be_written(deployed, info, tmp_path):
    """PyTorch would leave it at 18, with an exit status of 0."""
    with pytest.raises(ValueError, match='opset 99 cannot be written'):
        export(deployed, info, tmp_path / 'detector.onnx', opset=99)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('name, dtype', [('a.onnx', 'float32'),
                                         ('a.xml', 'float32')])
def test_any_network_is_written_and_run(tmp_path, name, dtype):
    """What the benchmark needs: no detector, no uint8, no text."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    network[1].running_mean.normal_()
    images = torch.randn(2, 3, 8, 9)
    engine = engine_of(name)
    engine.write(network, images, tmp_path / name)
    opened = engine.open(tmp_path / name, threads=1)
    assert (opened.shape, opened.dtype, opened.text) == (
        (2, 3, 8, 9), dtype, None)
    wanted = PyTorchNetwork(network)(images.numpy())
    np.testing.assert_allclose(wanted[0], network(images).detach(), atol=1e-5)
    np.testing.assert_allclose(
        opened(images.numpy())[0], wanted[0], atol=1e-5)


def test_deploy_form_as_a_checkpoint(small, deployed, info, tmp_path):
    path = tmp_path / 'deployed.pth'
    export(deployed, info, path)
    loaded = load_deployed(small.cfg, str(path))
    images = torch.from_numpy(batch(1, 64, 64))
    for got, wanted in zip(loaded(images), deployed(images)):
        assert torch.equal(got, wanted)
    cfg = load_config(small.config,
                      {'model.backbone.arch.depths': (1, 2, 1, 1)})
    with pytest.raises(CheckpointError, match='does not fit the config'):
        load_deployed(cfg, str(path))


def test_what_travels_in_the_file(exported, small):
    for name in ('nms.onnx', 'nms.xml'):
        info = load_backend(exported[name]).info
        assert info.classes == ('blue', 'red') and info.nms
        assert info.img_scale == (64, 64) and info.score_thr == 0.001
    for output in onnx.load(exported['nms.onnx']).graph.output:
        first, *_ = output.type.tensor_type.shape.dim
        assert first.dim_param == 'batch', output.name


def test_any_size_has_one_that_images_are_fitted_into(deployed, info,
                                                      tmp_path):
    done = export(deployed, info, tmp_path / 'x.pth', shape=(96, 64),
                  dynamic=True)
    assert done.img_scale == (64, 96) and done.shape == (None, None, None)
    done = export(deployed, info, tmp_path / 'x.pth', dynamic=True)
    assert done.img_scale == info.img_scale


@pytest.mark.parametrize('options, words', [
    (dict(shape=(100, 64)), 'multiples of 32, got 100 64'),
    (dict(batch_size=0), 'batch size must be positive, got 0'),
    (dict(batch_size=10**6), '1000000 images of 64x64 are more than the'),
    (dict(shape=(32, 32 * 10**9)), 'more than the 134217728 pixels'),
    (dict(path='x.engine'), 'x.engine must end in .onnx or .xml'),
    (dict(path='x.pth', nms=True), 'NMS can be part of .onnx and .xml'),
])
def test_refuses_what_it_cannot_do(deployed, info, tmp_path, options, words):
    options = dict(dict(path='x.onnx'), **options)
    path = tmp_path / options.pop('path')
    with pytest.raises(ValueError, match=words):
        export(deployed, info, path, **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('option, value, words', [
    ('test_dataloader.dataset.pipeline.1.type', 'mmdet.Resize',
     'LetterResize alone'),
    ('test_dataloader.dataset.pipeline.2.allow_scale_up', True,
     'allow_scale_up=False'),
    ('model.test_cfg.nms.type', 'soft_nms', "must be dict.type='nms'"),
])
def test_refuses_another_preparation(small, option, value, words):
    cfg = load_config(small.config, {option: value})
    with pytest.raises(ValueError, match=words):
        DeployInfo.from_config(cfg)


def test_what_a_config_says(small):
    """And what is meant where it says nothing."""
    info = DeployInfo.from_config(small.cfg)
    assert (info.classes, info.img_scale, info.pad_val) == (
        ('blue', 'red'), (64, 64), 114)
    assert (info.score_thr, info.iou_threshold) == (0.001, 0.7)
    assert (info.nms_pre, info.max_per_img) == (30000, 300)
    assert info.multi_label and not info.nms
    assert info.shape == (None, None, None)
    cfg = load_config(small.config)
    for key in ('score_thr', 'nms_pre'):
        cfg.model.test_cfg.pop(key)
    cfg.pop('metainfo')
    cfg.test_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    cfg.test_dataloader.dataset.pipeline[2].update(pad_val=7, scale=(96, 64))
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 64)
    info = DeployInfo.from_config(cfg)
    assert (info.score_thr, info.nms_pre) == (-1, 100000)
    assert (info.classes, info.img_scale, info.pad_val) == (
        ('a', 'b'), (96, 64), 7)
    cfg.test_dataloader.dataset.pipeline[2].pop('pad_val')
    assert DeployInfo.from_config(cfg).pad_val == 0  # mmyolo's own
    # one place cannot hold two classes of one
    cfg.test_dataloader.dataset.pop('metainfo')
    cfg.model.bbox_head.head_module.num_classes = 1
    info = DeployInfo.from_config(cfg)
    assert info.classes == ('0', ) and not info.multi_label
    cfg.test_dataloader.dataset.pipeline[1].scale = (64, 64)
    with pytest.raises(ValueError, match=r'one scale for .*\(64, 64\) and .*'
                       r'\(96, 64\)'):
        DeployInfo.from_config(cfg)
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 64)
    cfg.model.bbox_head.pop('head_module')
    with pytest.raises(ValueError, match='not the config of a YOLOv8 detec'):
        DeployInfo.from_config(cfg)


@pytest.mark.parametrize('change', [
    dict(classes=[]), dict(classes=[1]), dict(classes='ab'),
    dict(img_scale=[]), dict(img_scale=[64., 64]), dict(img_scale=[64]),
    dict(img_scale=[64, 0]), dict(pad_val='1'), dict(score_thr=None),
    dict(iou_threshold='0.7'), dict(nms_pre=True), dict(max_per_img=[3]),
    dict(shape=3), dict(shape=[1, 64]), dict(shape=[1, 64, '64']),
    dict(nms=0), dict(multi_label='no')], ids=str)
def test_the_text_of_a_file_is_believed_in_no_part(info, change):
    assert DeployInfo.loads(info.dumps(), 'a.onnx') == info
    text = json.dumps(dict(json.loads(info.dumps()), **change))
    with pytest.raises(CheckpointError, match='a.onnx does not say how to'):
        DeployInfo.loads(text, 'a.onnx')


def test_how_far_a_file_is_from_its_network(small, exported, deployed, info):
    """Of a network whose boxes or scores were moved, by how much."""
    images = batch(5, 64, 64)
    moved = load_deployed(small.cfg, small.checkpoint)
    for branch in (moved.head.cls_preds, moved.head.reg_preds):
        for layers in branch:
            layers[-1].bias.data += torch.linspace(
                0, 1, len(layers[-1].bias))
    fixed = replace(info, shape=(2, 64, 64))
    same = compare(deployed, fixed, exported['fixed.onnx'], images)
    assert all(0 <= found < limit for found, limit in same.values())
    found = compare(moved, fixed, exported['fixed.onnx'], images)
    # of whole batches
    wanted, got = ([x.numpy() for x in network(torch.from_numpy(images[:4]))]
                   for network in (deployed, moved))
    for name, a, b, limit in zip(('boxes', 'scores'), wanted, got,
                                 (6.4e-3, 1e-4)):
        assert found[name] == (pytest.approx(abs(a - b).max(), rel=1e-3),
                               pytest.approx(limit))
        assert found[name][0] > 10 * limit
    name, with_nms = exported['nms.onnx'], replace(info, nms=True)
    share, limit = compare(deployed, with_nms, name, images)['detections']
    assert 0 <= share <= limit == 0.01
    assert compare(moved, with_nms, name, images)['detections'][0] > 0.5


def test_real_images_to_try_a_detector_on(small, coco, tmp_path):
    """Those of a split of the config that are there, or of scikit-learn."""
    val = [str(coco / f'val/{i}.png') for i in range(1, 6)]
    assert example_images(small.cfg) == val
    assert example_images(small.cfg, split='train') == [
        path.replace('/val/', '/train/') for path in val]
    assert example_images(small.cfg, val[1]) == [val[1]]
    cfg = load_config(small.config, {
        'test_dataloader.dataset.data_root': f'{tmp_path}/'})
    photos = example_images(cfg)
    assert [photo.shape for photo in photos] == [(427, 640, 3)] * 2
    for photo, known in zip(photos, load_sample_images().images):
        assert (photo[..., ::-1] == known).all()
        assert photo.flags.c_contiguous
    # of images that are listed, but not all there
    (tmp_path / 'annotations').mkdir()
    shutil.copy(coco / 'annotations/val.json', tmp_path / 'annotations')
    (tmp_path / 'val').mkdir()
    shutil.copy(val[3], tmp_path / 'val')
    assert example_images(cfg) == [f'{tmp_path}/val/4.png']


def test_names_what_is_wrong_with_a_file(exported, small, tmp_path):
    with pytest.raises(FileNotFoundError, match='not found: no.onnx'):
        load_backend('no.onnx')
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(Path(exported['any.onnx']).read_bytes()[:5000])
    for backend in ('onnxruntime', 'openvino'):
        with pytest.raises(CheckpointError, match='broken.onnx cannot be re'):
            load_backend(broken, backend)
    # of somebody else, or tampered with
    model = onnx.load(exported['any.onnx'])
    text = json.loads(model.metadata_props[0].value)
    for wrong in (None, 'no json', '[]', json.dumps(dict(text, img_scale='x')),
                  json.dumps(dict(text, nms_pre='9')),
                  json.dumps(dict(text, more=1))):
        del model.metadata_props[:]
        if wrong is not None:
            model.metadata_props.add(key='mmfasternet', value=wrong)
        onnx.save(model, str(broken))
        with pytest.raises(CheckpointError, match='does not say how to prep'):
            load_backend(broken)
    with pytest.raises(ValueError, match='is run by openvino, not by onnx'):
        load_backend(exported['any.xml'], 'onnxruntime')
    with pytest.raises(ValueError, match='--backend openvino, which has bf16'):
        load_backend(exported['any.onnx'], precision='bf16')
    with pytest.raises(ValueError, match='fp32 or bf16, got the precision'):
        load_backend(exported['any.xml'], precision='fp8')


def test_the_tool(small, tmp_path):
    command = ['tools/deploy/export.py', small.config, small.checkpoint]
    done = run_script(
        *command, tmp_path / 'a.onnx', tmp_path / 'a.xml', '--shape', 32, 64,
        '--opset', 17, '--images', small.folder)
    assert 'a.onnx: ' in done.stdout and 'a.xml: ' in done.stdout
    assert 'batch 1, 32x64, opset 17' in done.stdout
    assert done.stdout.count('compared with PyTorch on 8 images, boxes') == 2
    assert onnx.load(tmp_path / 'a.onnx').opset_import[0].version == 17
    done = run_script(*command, tmp_path / 'b.onnx', '--images',
                      tmp_path / 'none', status=1)
    assert not (tmp_path / 'b.onnx').exists()
    assert done.stderr.strip().splitlines()[-1] == \
        f'error: no such file or folder: {tmp_path}/none'


def test_engines_are_imported_when_they_are_used():
    """The tools' --help, and processes that measure one engine."""
    code = ('import sys; from mmfasternet.deploy.engines import ENGINES; '
            'print({*ENGINES} & {*sys.modules}, "torch" in sys.modules); '
            'ENGINES["onnxruntime"].module; '
            'print({*ENGINES} & {*sys.modules}, "torch" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True)
    assert done.stdout.splitlines() == [
        'set() False', "{'onnxruntime'} False"], done.stderr


@pytest.mark.parametrize('device, options', [
    ('cpu', ('CPUExecutionProvider', {})),
    ('cuda', ('CUDAExecutionProvider', dict(device_id=0))),
    ('cuda:3', ('CUDAExecutionProvider', dict(device_id=3)))])
def test_onnxruntime_gets_the_gpu_that_is_named(device, options, monkeypatch):
    import onnxruntime
    asked = []

    class Session:
        def __init__(self, path, settings, providers):
            asked.append((path, settings.intra_op_num_threads, *providers))

        def get_providers(self):
            return [options[0]]

    monkeypatch.setattr(onnxruntime, 'InferenceSession', Session)
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [
        'CUDAExecutionProvider', 'CPUExecutionProvider'])
    engine = ENGINES['onnxruntime'].module
    engine.open_session(Path('a.onnx'), 3, device)
    engine.open_session(Path('a.onnx'), device=device)
    assert asked == [('a.onnx', 3, options), ('a.onnx', 0, options)]
    # it falls back to the CPU without an error
    monkeypatch.setattr(Session, 'get_providers', lambda self: ['other'])
    with pytest.raises(ValueError, match=f'cannot use {device}: is there suc'):
        engine.open_session(Path('a.onnx'), device=device)


@pytest.mark.parametrize('precision, hint', [('fp32', 'f32'),
                                             ('bf16', 'bf16')])
def test_openvino_is_asked_for_the_precision_and_the_threads(
        precision, hint, monkeypatch):
    """By the names of its documentation; what it makes of them is its own."""
    pytest.importorskip('openvino')
    asked, module = [], ENGINES['openvino'].module

    class Core:
        available_devices = ['CPU', 'GPU']

        def read_model(self, path):
            return type('Model', (), dict(reshape=asked.append))

        def compile_model(self, model, device, properties):
            asked.append((device, properties))

    monkeypatch.setattr(module, 'openvino_core', Core)
    module.compile_file(Path('a.xml'), precision)
    module.compile_file(Path('a.xml'), precision, 3, 'gpu.0', (1, 3, 8, 8),
                        PERF_COUNT=True)
    hints = dict(INFERENCE_PRECISION_HINT=hint, PERFORMANCE_HINT='LATENCY')
    assert asked == [('CPU', hints), [1, 3, 8, 8], ('GPU.0', dict(
        hints, INFERENCE_NUM_THREADS=3, PERF_COUNT=True))]
    with pytest.raises(ValueError, match='cannot use npu, it has CPU, GPU'):
        module.compile_file(Path('a.xml'), device='npu')
    # as they are listed where there are two
    Core.available_devices = ['CPU', 'GPU.0', 'GPU.1']
    module.compile_file(Path('a.xml'), device='gpu.1')
    assert asked[-1][0] == 'GPU.1'
    with pytest.raises(ValueError, match='it has CPU, GPU.0, GPU.1'):
        module.compile_file(Path('a.xml'), device='npu')


def test_one_openvino_core():
    openvino = pytest.importorskip('openvino')
    module = ENGINES['openvino'].module
    assert isinstance(module.openvino_core(), openvino.Core)
    assert module.openvino_core() is module.openvino_core()
