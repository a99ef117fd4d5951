# SPDX-License-Identifier: GPL-3.0-only
"""int8 files against the float files that they were made of."""
import subprocess
import sys

import numpy as np
import pytest

from mmfasternet.deploy import load_backend
from mmfasternet.deploy.quantization import parts, quantize, sensitivity

pytest.importorskip('onnxruntime')


def photos(number, seed=0):
    """Smooth, as photos are; noise has no more information than its range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (number, 3, 8, 8))
    return coarse.repeat(8, 2).repeat(8, 3).astype(np.uint8)


def weights_in_int8(path):
    """Convolutions whose weights are int8, and all."""
    if path.suffix == '.onnx':
        import onnx
        graph = onnx.load(str(path)).graph
        kinds = {i.name: i.data_type for i in graph.initializer}
        dequantized = {
            n.output[0] for n in graph.node if n.op_type == 'DequantizeLinear'
            and kinds.get(n.input[0]) == onnx.TensorProto.INT8
        }
        convs = [n for n in graph.node if n.op_type == 'Conv']
        return {n.name for n in convs if n.input[1] in dequantized}, \
            {n.name for n in convs}
    import openvino
    ops = openvino.Core().read_model(str(path)).get_ordered_ops()

    def is_int8(op):
        while op.get_type_name() in ('Multiply', 'Subtract', 'Convert',
                                     'Reshape'):
            op = op.input_value(0).get_node()
        return op.get_type_name() == 'Constant' and \
            op.get_element_type().get_type_name() == 'i8'

    convs = [op for op in ops if op.get_type_name() == 'Convolution']
    return {
        op.get_friendly_name().partition('/')[0]
        for op in convs if is_int8(op.input_value(1).get_node())
    }, {op.get_friendly_name().partition('/')[0] for op in convs}


@pytest.mark.parametrize('name', ['fixed.onnx', 'fixed.xml'])
def test_int8_stays_near_and_keeps_what_it_is_told(exported, tmp_path, name):
    if name.endswith('xml'):
        pytest.importorskip('nncf')
    out = tmp_path / name
    keep = ['backbone.patch_embed', 'head.cls_preds.0']
    quantize(exported[name], out, photos(16), keep)
    int8, all_ = weights_in_int8(out)
    kept = {n for n in all_ if n.startswith(tuple(keep))}
    assert int8 == all_ - kept and kept
    network, reference = load_backend(out), load_backend(exported[name])
    assert network.info == reference.info
    images = photos(2, seed=1)
    got, wanted = network(images), reference(images)
    error = np.sqrt(((got[1] - wanted[1])**2).mean()) / wanted[1].std()
    assert 0 < error < 0.5
    # the decoding is float: no two of 672 coordinates in 256 steps
    assert len(np.unique(got[0])) == got[0].size


def test_parts_and_their_sensitivity(exported):
    names = parts(exported['fixed.onnx'])
    assert names[:2] == ['backbone.patch_embed', 'backbone.stages.0']
    assert {'neck.sppf', 'head.cls_preds.2', 'head.reg_preds.0'} <= {*names}
    moved = sensitivity(exported['fixed.onnx'], photos(4))
    assert {*moved} == {*names}
    values = [*moved.values()]
    assert values == sorted(values, reverse=True) and values[-1] >= 0
    assert all(moved[n] > 1e-4 for n in names if 'cls_preds.0' in n)


def test_refuses_what_it_cannot_quantise(exported, tmp_path):
    with pytest.raises(ValueError, match='must both end in .onnx or .xml'):
        quantize(exported['fixed.onnx'], tmp_path / 'a.xml', photos(2))
    with pytest.raises(ValueError, match='has no part head.nothing; its part'):
        quantize(exported['fixed.onnx'], tmp_path / 'a.onnx', photos(2),
                 ['head.nothing'])
    assert not any(tmp_path.iterdir())


def test_the_tool(small, exported, tmp_path):
    out = tmp_path / 'int8.onnx'
    done = subprocess.run([
        sys.executable, 'tools/deploy/quantize.py', small.config,
        exported['any.onnx'], out, '--images', small.folder, '--runs', '3',
        '--work-dir', tmp_path
    ], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'int8, calibrated on 5 images' in done.stdout
    assert 'AP 0.' in done.stdout and 'times as fast' in done.stdout
    assert out.is_file()
