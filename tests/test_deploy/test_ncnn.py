# SPDX-License-Identifier: GPL-3.0-only
"""What is ncnn's own: three files, and maps that are decoded outside.

That it computes what PyTorch does is tested with the other engines, in
test_export.py and test_predictor.py.
"""
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_script
from test_quantization import photos

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.deploy import (
    DeployInfo,
    Predictor,
    export,
    load_backend,
    load_deployed,
)
from mmfasternet.deploy.deployed_detector import decode_maps, with_fp16_weights
from mmfasternet.deploy.engines import ENGINES, engine_of
from mmfasternet.deploy.quantization import parts, quantize

ncnn = pytest.importorskip('ncnn', reason='pip install ncnn')
pytest.importorskip('pnnx', reason='pip install pnnx')


@pytest.fixture(scope='module')
def deployed(small):
    return load_deployed(small.cfg, small.checkpoint)


@pytest.fixture
def copied(exported, tmp_path):
    """The three files where they may be damaged."""
    source = Path(exported['any.ncnn.param'])
    for suffix in ('param', 'bin', 'json'):
        shutil.copy(source.with_suffix(f'.{suffix}'),
                    tmp_path / f'detector.ncnn.{suffix}')
    return tmp_path / 'detector.ncnn.param'


def test_the_maps_are_decoded_as_in_pytorch(deployed):
    """Of maps that are not square, and of no class twice."""
    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    maps = [x.numpy() for xs in deployed.maps(images) for x in xs]
    for got, wanted in zip(decode_maps(maps, 64), deployed(images)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_by_hand():
    """One cell of one class: the first bin left, the last one right."""
    logits = np.zeros((1, 1, 1, 1), 'f4')
    distances = np.full((1, 16, 1, 1), -100, 'f4')  # 4 sides of 4 bins
    for side, bin_ in enumerate((0, 1, 2, 3)):
        distances[0, 4 * side + bin_] = 100
    boxes, scores = decode_maps([logits, distances], 32)
    # from the middle, (16, 16), as many strides of 32 to each side
    np.testing.assert_allclose(boxes[0, 0], [16, -16, 80, 112])
    assert scores[0, 0] == 0.5


def test_what_any_program_needs_is_in_the_files(exported):
    """ncnn alone, as on a phone: pixels in, one map per level and kind out."""
    path = Path(exported['any.ncnn.param'])
    info = json.loads(path.with_suffix('.json').read_text())
    assert info['classes'] == ['blue', 'red'] and info['pad_val'] == 114
    assert info['img_scale'] == [64, 64]
    net = ncnn.Net()
    assert net.load_param(str(path)) == net.load_model(
        str(path.with_suffix('.bin'))) == 0
    assert list(net.input_names()) == ['in0']
    extractor = net.create_extractor()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    extractor.input('in0', ncnn.Mat.from_pixels(
        pixels, ncnn.Mat.PixelType.PIXEL_BGR, 96, 64))
    shapes = [np.array(extractor.extract(f'out{i}')[1]).shape
              for i in range(6)]
    assert shapes == [(channels, 64 // s, 96 // s) for channels in (2, 64)
                      for s in (8, 16, 32)]


def test_sixteen_bits_are_near(exported, small):
    exact = load_backend(exported['any.ncnn.param'])
    images = np.stack([Predictor(exported['any.ncnn.param']).letterbox(path)[0]
                       for path in small.images])
    precision = 'fp16' if ncnn.cpu_support_arm_asimdhp() else 'bf16'
    got = load_backend(exported['any.ncnn.param'], precision=precision)(images)
    wanted = exact(images)
    # 8 bits of the mantissa are 0.4 % for each of some 20 roundings
    assert 0 < np.abs(got[1] - wanted[1]).mean() < 0.02
    assert len(np.unique(got[0])) > 0.9 * got[0].size


def test_weights_that_fp16_has(deployed):
    detector = copy.deepcopy(deployed)
    layer = detector.head.cls_preds[0][-1]
    layer.weight.view(-1)[:3] = torch.tensor([65504, 2.**-15, -1 / 3])
    rounded = with_fp16_weights(detector)
    for name, value in detector.state_dict().items():
        wanted = value.numpy()
        if name.endswith('.weight') and value.dim() == 4:
            wanted = np.float16(wanted).astype('f4')
            wanted[np.abs(value.numpy()) < 2.**-14] = 0
        np.testing.assert_array_equal(rounded.state_dict()[name], wanted)
    layer.weight.view(-1)[1] = -65600
    with pytest.raises(ValueError, match='cls_preds.0.* has a weight of '
                       '6.56e.04, and fp16 ends at 65504: take fp32'):
        with_fp16_weights(detector)


def check_fp16(deployed, info, path):
    """Half the weights' bytes, and the boxes of the rounded weights."""
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), 'u1')
    sizes = []
    for precision, network in (('fp32', deployed),
                               ('fp16', with_fp16_weights(deployed))):
        export(deployed, info, path, precision=precision)
        weights = path.with_suffix(engine_of(path).weights or path.suffix)
        sizes.append(weights.stat().st_size)
        wanted = network(torch.from_numpy(images))
        boxes, scores = load_backend(path)(images)
        # rtol: sums in another order, seen with AVX2: 2.4e-5 of 122 pixels
        np.testing.assert_allclose(boxes, wanted[0], rtol=3e-5, atol=2e-3)
        np.testing.assert_allclose(scores, wanted[1], rtol=0, atol=1e-5)
    assert np.abs(scores - deployed(torch.from_numpy(images))[1].numpy()
                  ).max() > 1e-4
    return sizes


def test_weights_in_fp16(deployed, small, tmp_path):
    info = DeployInfo.from_config(small.cfg)
    whole, half = check_fp16(deployed, info, tmp_path / 'a.ncnn.param')
    assert 0.5 < half / whole < 0.51
    with pytest.raises(ValueError, match='weights in fp16 can be part of '
                       '.ncnn.param and .tflite, not of .*a.onnx'):
        export(deployed, info, tmp_path / 'a.onnx', precision='fp16')
    with pytest.raises(ValueError, match='bf16 can be part of no file'):
        export(deployed, info, tmp_path / 'a.ncnn.param', precision='bf16')


def test_int8(exported, deployed, tmp_path):
    """Near the float file; its bytes are those of int8 weights, and for each
    channel a bias and a scale."""
    path, out = exported['any.ncnn.param'], tmp_path / 'int8.ncnn.param'
    kept = parts(path)[-1]
    quantize(path, out, photos(16), [kept])
    network, reference = load_backend(out), load_backend(path)
    assert network.info == reference.info
    images = photos(2, seed=1)
    got, wanted = network(images), reference(images)
    error = np.sqrt(((got[1] - wanted[1])**2).mean()) / wanted[1].std()
    assert 0 < error < 0.2
    names = [line.split()[1] for line in out.read_text().splitlines()
             if ' 8=2' in line]
    assert names == parts(path)[:-1]
    whole, small = (Path(p).with_suffix('.bin').stat().st_size
                    for p in (path, out))
    convs = [m for m in deployed.modules() if isinstance(m, torch.nn.Conv2d)]
    left = next(line.split() for line in out.read_text().splitlines()
                if line.split()[1:2] == [kept])
    left = next(int(o[2:]) for o in left if o.startswith('6='))
    saved = sum(m.weight.numel() for m in convs) - left
    scales = sum(m.out_channels for m in convs) + len(convs)
    # three of the four bytes of each weight
    assert 0 < small - (whole - 3 * saved) <= 4 * scales + 4 * len(convs)


def test_int8_of_another_file_is_refused(deployed, small, tmp_path):
    path = tmp_path / 'a.ncnn.param'
    export(deployed, DeployInfo.from_config(small.cfg), path,
           precision='fp16')
    with pytest.raises(ValueError, match='or in fp16: quantise a file of'):
        quantize(path, tmp_path / 'b.ncnn.param', photos(1))
    with pytest.raises(ValueError, match='must both end in .*.ncnn.param'):
        quantize(path, tmp_path / 'b.onnx', photos(1))
    assert not list(tmp_path.glob('b*'))


def test_fp16_is_not_promised_where_it_is_fp32(exported):
    if ncnn.cpu_support_arm_asimdhp():
        pytest.skip('this processor computes in fp16')
    with pytest.raises(ValueError, match='ask for fp32 or bf16'):
        load_backend(exported['any.ncnn.param'], precision='fp16')
    with pytest.raises(ValueError, match='ncnn runs on the CPU here, not on'):
        load_backend(exported['any.ncnn.param'], device='cuda:0')


def damage_bin(path):
    file = path.with_suffix('.bin')
    file.write_bytes(file.read_bytes()[:-400])


def damage(old, new):
    def change(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize('change, kind, words', [
    (lambda p: p.with_suffix('.bin').unlink(), FileNotFoundError,
     'detector.ncnn.param needs its weights, .*detector.ncnn.bin'),
    (lambda p: p.with_suffix('.json').unlink(), CheckpointError,
     'does not say how to prepare images'),
    (lambda p: p.with_suffix('.json').write_text('[]'), CheckpointError,
     'does not say how to prepare images'),
    (damage_bin, CheckpointError, 'detector.ncnn.bin are not a network'),
    (lambda p: p.with_suffix('.bin').write_bytes(b''), CheckpointError,
     'are not a network'),
    (lambda p: p.write_text(p.read_text()[:2000]), CheckpointError,
     'cannot be read, it is damaged'),
    (lambda p: p.write_text(''), CheckpointError, 'cannot be read'),
    (lambda p: p.write_bytes(b'\xff' * 99), CheckpointError, 'cannot be read'),
    (damage('7767517', '7767518'), CheckpointError, 'cannot be read'),
    # memory for a thousand million blobs is asked for by ncnn
    (lambda p: p.write_text('7767517\n1 999999999\nInput in0 0 1 in0\n'),
     CheckpointError, '1 layers and 1 blobs after 7767517 1 999999999'),
    (damage('Convolution ', 'Convolusion '), CheckpointError,
     'are not a network'),
])
def test_names_what_is_wrong_with_the_files(copied, change, kind, words):
    load_backend(copied)
    change(copied)
    with pytest.raises(kind, match=words):
        load_backend(copied)


def test_a_size_that_no_file_can_be_run_in(exported):
    """ncnn computed something else, or crashed."""
    backend = load_backend(exported['any.ncnn.param'])
    for shape in ((64, 100), (50, 64), (33, 33)):
        with pytest.raises(ValueError, match='in multiples of 32, got '
                           f'{shape[0]} {shape[1]}: pad the images'):
            backend(np.zeros((1, 3, *shape), np.uint8))


def test_a_text_with_such_a_size(copied):
    text = copied.with_suffix('.json').read_text()
    copied.with_suffix('.json').write_text(text.replace(
        '"img_scale": [64, 64]', '"img_scale": [100, 64]'))
    with pytest.raises(ValueError, match='ncnn.param takes .* got 64 100'):
        Predictor(copied)(np.zeros((64, 100, 3), np.uint8))


def test_names_what_is_missing(exported, monkeypatch, deployed, small,
                               tmp_path):
    find = ENGINES['ncnn'].module  # imported before it is hidden
    assert find is ENGINES['ncnn'].module
    hidden = []
    from mmfasternet.deploy import engines
    real = engines.find_spec
    monkeypatch.setattr(engines, 'find_spec', lambda name: None if name in
                        hidden else real(name))
    for package in ('ncnn', 'pnnx'):
        hidden[:] = [package]
        with pytest.raises(ImportError, match=f'pip install {package}$'):
            export(deployed, DeployInfo.from_config(small.cfg),
                   tmp_path / 'a.ncnn.param')
        assert not any(tmp_path.iterdir())
    hidden[:] = ['ncnn']
    with pytest.raises(ImportError, match='pip install ncnn$'):
        load_backend(exported['any.ncnn.param'])


class Unknown(torch.nn.Module):
    def forward(self, x):
        return torch.special.i0(x)


def test_a_layer_that_ncnn_does_not_have(tmp_path):
    with pytest.raises(ValueError, match='ncnn has no layer for .*i0'):
        ENGINES['ncnn'].write(Unknown(), torch.zeros(1, 3, 8, 8),
                              tmp_path / 'a.ncnn.param')


@pytest.mark.parametrize('options, words', [
    (dict(nms=True), 'NMS can be part of .onnx and .xml, not of'),
    (dict(path='a.param'), 'must end in .* or .ncnn.param'),
])
def test_refuses_what_it_cannot_write(deployed, small, tmp_path, options,
                                      words):
    options = dict(dict(path='a.ncnn.param'), **options)
    path = tmp_path / options.pop('path')
    with pytest.raises(ValueError, match=words):
        export(deployed, DeployInfo.from_config(small.cfg), path, **options)
    assert not any(tmp_path.iterdir())


def test_another_offset_is_refused(deployed, small, tmp_path, monkeypatch):
    monkeypatch.setattr(deployed.head, 'offset', 0)
    with pytest.raises(ValueError, match='prior_generator.offset is 0, not'):
        export(deployed, DeployInfo.from_config(small.cfg),
               tmp_path / 'a.ncnn.param')


def test_the_tool_and_a_checkpoint(small, tmp_path):
    out = tmp_path / 'new/a.ncnn.param'
    done = run_script('tools/deploy/export.py', small.config,
                      small.checkpoint, out, '--shape', 32, 64, '--images',
                      small.folder, '--precision', 'fp16')
    assert 'compared with PyTorch on 8 images, boxes' in done.stdout
    assert ' Convolution, ' in done.stdout
    size = sum(out.with_suffix(s).stat().st_size for s in ('.param', '.bin'))
    assert f'{size / 1e6:.1f} MB, batch 1, 32x64' in done.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == [
        'a.ncnn.bin', 'a.ncnn.json', 'a.ncnn.param']
    made = Predictor(small.checkpoint, small.config, 'ncnn')
    wanted = Predictor(small.checkpoint, small.config)
    for got, sample in zip(made(small.images), wanted(small.images)):
        torch.testing.assert_close(
            got.pred_instances.scores, sample.pred_instances.scores,
            rtol=0, atol=1e-4)
