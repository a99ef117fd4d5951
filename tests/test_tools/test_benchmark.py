# SPDX-License-Identifier: Apache-2.0
"""What the benchmark reports, except how fast anything is."""
import json
import math
import runpy
import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mmfasternet.analysis.benchmark import paper
from mmfasternet.analysis.benchmark.build import build_network
from mmfasternet.analysis.benchmark.candidates import baseline_of, cross
from mmfasternet.analysis.benchmark.layers import exported_layers, with_macs
from mmfasternet.analysis.benchmark.race import Pair, Result, measure, race
from mmfasternet.analysis.complexity import count
from mmfasternet.analysis.timing import interleave, speedup, speedup_text
from mmfasternet.deploy.engines import ENGINES
from mmfasternet.models import FasterNet

TOOL = 'tools/analysis_tools/benchmark.py'
SHAPE = (1, 3, 32, 64)
BACKENDS = [
    'onnxruntime',
    pytest.param(
        'openvino',
        marks=pytest.mark.skipif(
            find_spec('openvino') is None, reason='pip install openvino'))
]


def benchmark(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, args)])
    runpy.run_path(TOOL, run_name='__main__')
    return capsys.readouterr().out


def export_network(network, shape, path):
    ENGINES['onnxruntime'].write(network, torch.zeros(shape), path)


def small():
    torch.manual_seed(0)
    network = FasterNet(
        dict(embed_dim=8, depths=(1, 1, 1, 1)), num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)  # equal weights are written once
    return network


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A FasterNet, and half of it quantised by hand."""
    import onnx
    from onnx import helper
    folder = tmp_path_factory.mktemp('exported')
    export_network(small(), SHAPE, folder / 'float.onnx')
    model = onnx.load(str(folder / 'float.onnx'))
    entry = model.graph.input[0].name
    for name, value, kind in (('scale', 0.1, 1), ('zero', 0, 2)):
        model.graph.initializer.append(
            helper.make_tensor(name, kind, (), [value]))
    for node in model.graph.node:
        node.input[:] = ['dq' if i == entry else i for i in node.input]
    model.graph.node.insert(0, helper.make_node(
        'DequantizeLinear', ['q', 'scale', 'zero'], ['dq']))
    model.graph.node.insert(0, helper.make_node(
        'QuantizeLinear', [entry, 'scale', 'zero'], ['q']))
    onnx.save(model, str(folder / 'int8.onnx'))
    return folder


def ways(spec, **settings):
    settings = dict(
        dict(backends=None, precisions=None, threads=[1], batches=[1]),
        **settings)
    return cross(str(spec), **settings)


# ------------------------------------------------------------ counting
@pytest.mark.parametrize('name, published, digits', [
    ('conv', [2601, 2601, 2601, 2601], 1),
    ('gconv16', [162, 162, 162, 162], 1),
    ('dwconv', [27.09, 13.54, 6.77, 3.38], 100),
    ('pconv', [162, 162, 162, 162], 1),
])
def test_the_operators_cost_what_table_1_says(name, published, digits):
    """In 1e6 multiply-accumulates, which the paper calls FLOPs."""
    for (channels, side), expected in zip(paper.MAPS, published):
        target = f'operator:{name}:{channels}x{side}'
        shape = (1, *paper.find(target).shape)
        with torch.device('meta'):
            network = build_network(target)
        _, macs = count(network, shape)['']
        # the paper cuts what follows its last digit off
        assert int(macs / 1e6 * digits) / digits == expected


@pytest.mark.parametrize('group', paper.BACKBONES, ids=lambda g: g[-1].name)
def test_the_backbones_cost_what_table_3_says(group):
    """Up to its digits; ours counts convolutions and products only, which is
    up to 0.5 % or 0.03 less where networks are larger than the first group's.
    """
    slack = 0.015 if group is paper.BACKBONES[0] else 0.03
    if find_spec('timm') is None:
        pytest.skip('the other networks: pip install --no-deps timm')
    for row in group:
        target = f'backbone:{row.name}'
        with torch.device('meta'):
            network = build_network(target)
        parameters, macs = count(network, (1, *paper.find(target).shape))['']
        # of FasterNet-S the paper has 31.1, and its release 31.18
        digit = 0.09 if row.name == 'FasterNet-S' else 0.06
        assert parameters / 1e6 == pytest.approx(row.params, abs=digit)
        assert macs / 1e9 == pytest.approx(row.gmacs, abs=slack, rel=0.005)


def test_the_latencies_are_those_that_the_abstract_compares():
    """T0 is 3.3 times as fast as MobileViT-XXS on a CPU, L saves 37 % of
    Swin-B's time there."""
    ms = {row.name: row.ms for group in paper.BACKBONES for row in group}
    assert int(10 * ms['MobileViT-XXS'] / ms['FasterNet-T0']) == 33
    assert round(100 * ms['FasterNet-L'] / ms['Swin-B']) == 100 - 37


@pytest.mark.parametrize('layer, shape, kind', [
    (nn.Conv2d(6, 4, (3, 5), stride=2, groups=2), (2, 6, 20, 30),
     '3x5 6->4 in 2 groups'),
    (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 7), '2x2 6->4'),
    (nn.Linear(12, 5), (3, 12), 'product 12->5'),
])
def test_an_exported_layer_counts_as_in_pytorch(layer, shape, kind, tmp_path):
    path = tmp_path / 'x.onnx'
    network = nn.Sequential(layer)
    export_network(network, shape, path)
    parameters, layers = exported_layers(path, shape)
    assert (parameters, sum(layer.macs for layer in layers)) == count(
        network, shape)['']
    found, = layers
    assert found.kind.startswith(kind.split('->')[0])
    with torch.no_grad():
        tensors = torch.zeros(shape), layer.weight, layer(torch.zeros(shape))
    assert found.bytes == 4 * sum(t.numel() for t in tensors)
    assert found.parameters == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize('turned', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_product_counts_whichever_side_is_turned(turned, tmp_path):
    """Of 3 rows of 12 numbers each five sums of 12 products."""
    pytest.importorskip('openvino')
    onnx = pytest.importorskip('onnx')
    sides = [shape[::-1] if turn else shape
             for shape, turn in zip(((3, 12), (12, 5)), turned)]
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node('Gemm', ['x', 'w'], ['y'], transA=turned[0],
                          transB=turned[1])], 'g',
        [helper.make_tensor_value_info('x', kind, sides[0])],
        [helper.make_tensor_value_info('y', kind, (3, 5))],
        [helper.make_tensor('w', kind, sides[1], np.arange(60.))])
    onnx.save(helper.make_model(graph), tmp_path / 'x.onnx')
    parameters, (layer, ) = exported_layers(tmp_path / 'x.onnx', sides[0])
    assert (parameters, layer.macs, layer.kind) == (
        60, 3 * 5 * 12, 'product 12->5')
    assert layer.bytes == 4 * (36 + 60 + 15)


def test_an_xml_counts_as_its_onnx(exported, tmp_path):
    openvino = pytest.importorskip('openvino')
    path = tmp_path / 'float.xml'
    openvino.save_model(
        openvino.convert_model(str(exported / 'float.onnx')), str(path))
    assert exported_layers(path, SHAPE)[0] == exported_layers(
        exported / 'float.onnx', SHAPE)[0]
    _, layers = exported_layers(path, SHAPE)
    assert sum(layer.macs for layer in layers) == count(small(), SHAPE)[''][1]
    folded = sum(m.num_features for m in small().modules()
                 if isinstance(m, nn.BatchNorm2d))
    # a norm that is folded leaves its bias
    assert sum(layer.parameters for layer in layers) == sum(
        p.numel() for p in small().parameters()) - folded


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_profile_names_every_layer_that_multiplies(backend, exported):
    """Although both backends rename and merge layers."""
    path = exported / 'float.onnx'
    candidate, = ways(path, backends=[backend])[0]
    result = race([candidate], {candidate.key(): str(path)}, 1,
                  [candidate])[candidate]
    parameters, layers = exported_layers(path, SHAPE)
    rows = with_macs(result.layers, layers)
    assert sum(row['macs'] for row in rows) == count(small(), SHAPE)[''][1]
    assert sum(row['parameters'] for row in rows) == parameters
    assert all(row['seconds'] >= 0 for row in rows)
    # a run of so small a network, in seconds
    assert 0 < sum(row['seconds'] for row in rows) < 60


def test_a_profile_of_pytorch_counts_as_table_1():
    candidate, = ways('operator:pconv:96x56', backends=['pytorch'])[0]
    result, = measure([Pair(candidate)], 1, profile=True)
    *layers, between = result.layers
    # ten partial convolutions of 24 of 96 channels, on 56x56
    assert [(row['kind'], row['macs'], row['parameters'], row['bytes'])
            for row in layers] == 10 * [(
                'Conv2d 3x3 24->24', 9 * 24**2 * 56**2, 9 * 24**2,
                4 * (2 * 24 * 56**2 + 9 * 24**2))]
    assert 10 * layers[0]['macs'] == result.macs
    assert (between['macs'], between['parameters']) == (0, 0)
    assert 0 < result.bandwidth < math.inf


def test_how_fast_a_machine_could_be(monkeypatch):
    """A copy reads and writes four bytes a number; a product of 8x8 with 8x8
    has 512 multiply-accumulates."""
    module = 'mmfasternet.analysis.benchmark.race'
    monkeypatch.setattr(f'{module}.COPIED_NUMBERS', 1024)
    monkeypatch.setattr(f'{module}.PRODUCT_SIDE', dict(cpu=8, cuda=8))
    monkeypatch.setattr(f'{module}.allowed_precisions', lambda target, name:
                        ('fp32', ) if name == 'pytorch' else ())
    monkeypatch.setattr(f'{module}.race', lambda candidates, *args: {
        c: Result(c, [1 / c.threads]) for c in candidates})
    found, _ = ways('operator:pconv:96x56', backends=['pytorch'],
                    threads=[2, 3])
    for result in measure([Pair(candidate) for candidate in found], 1, True):
        threads = result.candidate.threads
        assert result.bandwidth == 2 * 4 * 1024 * threads
        assert result.roof == (2 * 512 * threads, 'pytorch')
    for result in measure([Pair(candidate) for candidate in found], 1):
        assert result.bandwidth == math.inf


def test_the_roof_is_the_faster_of_the_engines(monkeypatch):
    """With one thread the one that comes first, with two the other one."""
    faster = {1: 'pytorch', 2: 'onnxruntime'}
    module = 'mmfasternet.analysis.benchmark.race'
    monkeypatch.setattr(f'{module}.PRODUCT_SIDE', dict(cpu=8, cuda=8))
    monkeypatch.setattr(f'{module}.race', lambda candidates, *args: {
        c: Result(c, [.5 if c.backend == faster[c.threads] else 1])
        for c in candidates})
    monkeypatch.setattr(
        f'{module}.allowed_precisions', lambda target, name:
        ('fp32', ) if name in ('pytorch', 'onnxruntime') else ())
    base, other = (ways(f'operator:{name}:96x56', backends=['pytorch'],
                        threads=[threads])[0][0]
                   for name, threads in (('conv', 1), ('pconv', 2)))
    one, two = measure([Pair(base, base), Pair(other, base, dict(ms='5'))], 1)
    assert one.roof == (2 * 512 / .5, 'pytorch')
    assert two.roof == (2 * 512 / .5, 'onnxruntime')
    assert one.baseline is two.baseline is one
    assert (one.published, two.published) == ({}, dict(ms='5'))


def test_a_turn_is_a_tenth_of_a_second(monkeypatch):
    """Of a network that takes 30 ms four runs, of one of 2 s one; a profile
    has at least 5 and at most 50."""
    asked = []

    class Asked:
        def __init__(self, candidate, path):
            self.candidate, self.path = candidate, path

        def ask(self, what, runs=None):
            asked.append((self.path, what, runs))
            seconds = dict(a=.03, b=2., c=1e-3)[self.path]
            return dict(time=[seconds] * (runs or 0), memory=7,
                        profile=[runs]).get(what)

        def close(self):
            asked.append((self.path, 'close', None))

    monkeypatch.setattr('mmfasternet.analysis.benchmark.race.Process', Asked)
    found = [ways(f'operator:{name}:96x56', backends=['pytorch'])[0][0]
             for name in ('conv', 'pconv', 'dwconv')]
    results = race(found, {c.key(): name for c, name in zip(found, 'abc')}, 2,
                   found)
    for name, candidate, runs, profiled, seconds in zip(
            'abc', found, (4, 1, 100), (5, 5, 50), (.03, 2, 1e-3)):
        own = [(what, number) for path, what, number in asked if path == name]
        assert {number for what, number in own[2:] if what == 'time'} == {
            runs}
        assert own[:2] == [('load', None), ('time', 1)]
        assert own[-1] == ('close', None)
        result = results[candidate]
        assert result.seconds == [seconds] * 2 and result.memory == 7
        assert result.layers == [profiled]


# ------------------------------------------------------------ what runs
def test_networks_are_crossed_with_how_they_run(exported):
    found, notes = ways(
        exported / 'float.onnx', backends=['onnxruntime', 'openvino'],
        precisions=['fp32', 'bf16'], threads=[1, 2])
    assert [(c.backend, c.precision, c.threads) for c in found] == [
        ('onnxruntime', 'fp32', 1), ('onnxruntime', 'fp32', 2),
        ('openvino', 'fp32', 1), ('openvino', 'fp32', 2),
        ('openvino', 'bf16', 1), ('openvino', 'bf16', 2)
    ]
    assert {c.shape for c in found} == {SHAPE}  # the file's
    assert len(notes) == 1 and 'no bf16 on onnxruntime' in notes[0]


def test_a_setting_behind_the_name_wins(exported):
    found, _ = ways(f'{exported}/float.onnx@openvino@bf16@threads=2',
                    backends=['onnxruntime'], precisions=['fp32'])
    assert [(c.backend, c.precision, c.threads) for c in found] == [
        ('openvino', 'bf16', 2)]
    found, _ = ways('a.py@pytorch@compile@no-channels-last@batch=4',
                    shape=[32, 32], channels_last=True)
    assert (found[0].compile, found[0].channels_last, found[0].shape) == (
        True, False, (4, 3, 32, 32))
    # of what is for any size
    assert ways('a.py@pytorch')[0][0].shape == (1, 3, 640, 640)


def test_a_quantised_file_is_compared_with_what_it_was_made_from(exported):
    found, _ = ways(exported / 'int8.onnx', backends=['openvino'])
    assert [c.precision for c in found] == ['int8']
    baseline = baseline_of(found[0], str(exported / 'float.onnx'))
    assert (baseline.backend, baseline.precision) == ('openvino', 'fp32')
    with pytest.raises(ValueError, match='--baselines .*float.onnx@pytorch '
                       'cannot be run: .* does not run on pytorch'):
        baseline_of(found[0], f'{exported}/float.onnx@pytorch')


@pytest.mark.parametrize('spec, settings, message', [
    ('a.py', dict(precisions=['int8']), 'int8 is a property of an exported'),
    ('a.py@onxruntime', {}, "not 'onxruntime'"),
    ('a.py@threads=0', {}, "not 'threads=0'"),
    ('{}/float.onnx', dict(backends=['pytorch']), 'does not run on pytorch'),
    ('{}/float.onnx', dict(batches=[2]), 'was exported for 1x3x32x64 .* '
     'not for 2x3x32x64'),
    ('{}/float.onnx', dict(shape=[64, 64]), 'was exported for 1x3x32x64'),
    ('{}/missing.onnx', {}, 'exported file not found'),
    ('{}/float.onnx', dict(backends=['ncnn']), 'does not run on ncnn'),
    ('product:64', dict(backends=['litert']), 'does not run on litert'),
    ('{}/x.ncnn.param', {}, 'cannot be run: benchmark_from_file.py times it'),
    ('{}/x.torchscript', {}, 'Nothing here runs .torchscript'),
    ('backbone:FasterNet-T9', {}, "no backbone 'FasterNet-T9'"),
    ('operator:pconv:96x55', {}, 'expected operator:NAME:CHANNELSxSIDE'),
    ('operator:pconv:96x56:1', {}, 'expected operator:NAME:CHANNELSxSIDE'),
])
def test_what_cannot_run_is_refused(spec, settings, message, exported):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ways(spec.format(exported), **settings)


@pytest.mark.parametrize('backend, packages', [
    ('ncnn', ['ncnn', 'pnnx']), ('litert', ['ai_edge_litert', 'litert_torch'])
])
def test_what_reads_no_onnx_is_timed_beside_what_does(backend, packages):
    """Each reads a file of its own, of the same network."""
    for package in packages:
        pytest.importorskip(package)
    pairs = [Pair(found[0]) for found, _ in (
        ways('operator:pconv:96x56', backends=[name])
        for name in ('onnxruntime', backend))]
    for result in measure(pairs, 1):
        # ten 3x3 of a quarter of the channels
        assert result.macs == 10 * 24 * 24 * 9 * 56 * 56
        assert result.memory > 4 * 96 * 56 * 56  # the image
        assert result.roof
    with pytest.raises(ValueError, match=f'packages of {backend} have no '
                       'profiler: leave out --profile'):
        measure(pairs, 1, profile=True)


def test_what_an_engine_cannot_write_is_named(monkeypatch):
    pytest.importorskip('ncnn')

    def refuse(*args):
        raise ValueError('no layer for i0')

    monkeypatch.setattr(type(ENGINES['ncnn']), 'write', refuse)
    found, _ = ways('operator:pconv:96x56', backends=['ncnn'])
    with pytest.raises(ValueError, match='pconv:96x56: no layer for i0'):
        measure([Pair(found[0])], 1)


def test_a_file_that_does_not_load_is_named(tmp_path, exported):
    """The process ends or answers; the error says whose it is."""
    path = tmp_path / 'broken.onnx'
    path.write_bytes((exported / 'float.onnx').read_bytes()[:2000])
    candidate, = ways(exported / 'float.onnx')[0]
    with pytest.raises(ValueError, match='float.onnx on onnxruntime in fp32'):
        race([candidate], {candidate.key(): str(path)}, 1)


# ------------------------------------------------------------ the report
def test_a_speed_is_the_ratio_of_the_rounds():
    """A machine that slows down by half changes no ratio."""
    drift = np.array([1., 1., 2., 2., 2.])
    times = drift * 0.2, drift * 0.3
    assert speedup(*times) == pytest.approx((1.5, 1.5, 1.5))
    assert speedup_text(*times) == '1.50 (1.50 to 1.50)'


def test_turns_are_interleaved_and_warming_up_does_not_count():
    order = []

    def turn(name):

        def take():
            order.append(name)
            return len(order), -1

        return take

    found = interleave(dict(a=turn('a'), b=turn('b')), 2, warm_up=1)
    assert order == ['a', 'b'] * 3
    assert found['a'].tolist() == [[3, -1], [5, -1]]
    assert found['b'].tolist() == [[4, -1], [6, -1]]


def test_the_report_agrees_with_itself(tmp_path, exported, monkeypatch,
                                       capsys):
    out = benchmark(
        monkeypatch, capsys, exported / 'int8.onnx', '--baselines',
        exported / 'float.onnx', '--runs', 2, '--profile', '--out-dir',
        tmp_path, '--ap', f'{exported}/int8.onnx=0.5')
    data = json.loads((tmp_path / 'benchmark.json').read_text())
    base, row = data['results']
    assert [r['candidate']['precision'] for r in (base, row)] == [
        'fp32', 'int8']
    parameters, macs = count(small(), SHAPE)['']
    folded = sum(m.num_features for m in small().modules()
                 if isinstance(m, nn.BatchNorm2d))
    assert base['macs'] == row['macs'] == macs
    # of the weights and biases of a folded norm the biases are left
    assert base['parameters'] == parameters - folded
    for result in data['results']:
        assert len(result['seconds']) == 2
        assert result['flops_per_second'] == pytest.approx(
            2 * macs / np.median(result['seconds']))
        assert sum(layer['macs'] for layer in result['layers']) == macs
    assert row['speed'] == pytest.approx(
        np.median(np.divide(base['seconds'], row['seconds'])))
    assert base['share_of_matrix_product'] == pytest.approx(
        base['flops_per_second'] / base['matrix_product_flops_per_second'])
    assert 'share_of_matrix_product' not in row  # no product of integers
    assert f'**{row["speed"]:.2f}**' in out
    _, text = (tmp_path / 'benchmark.md').read_text().split('\n\n', 1)
    assert text.strip() in out
    latency, roofline = (cv2.imread(str(tmp_path / f'{name}.png'))
                         for name in ('latency', 'roofline'))
    # 8x6 and 9x6 inches of 120 dots
    assert (latency.shape, roofline.shape) == ((720, 960, 3), (720, 1080, 3))


def test_a_config_and_a_checkpoint_of_it(tmp_path, monkeypatch, capsys):
    """Parameters and MACs are those of tools/analysis_tools/get_flops.py."""
    from mmfasternet.analysis.complexity import count_complexity
    from mmfasternet.config import load_config
    config = 'configs/yolov8_fasternet_n.py'
    network = build_network(config, dict(classes=['a', 'b', 'c']))
    torch.save(network.state_dict(), tmp_path / 'n.pth')
    spec = f'{config},{tmp_path}/n.pth'
    benchmark(
        monkeypatch, capsys, spec, '--backends', 'onnxruntime', 'pytorch',
        '--batch-size', 2, '--shape', 64, 96, '--channels-last', '--runs', 1,
        '--out-dir', tmp_path, '--cfg-options', 'classes=[a,b,c]')
    parameters, macs = count_complexity(
        load_config(config, dict(classes=['a', 'b', 'c'])), (64, 96))['']
    data = json.loads((tmp_path / 'benchmark.json').read_text())
    assert len(data['results']) == 2
    for row in data['results']:
        assert (row['parameters'], row['macs']) == (parameters, 2 * macs)
        # all weights are there, and not the libraries (half a gigabyte)
        assert 4 * parameters < row['memory'] < 4 * parameters + 250e6
    with pytest.raises(SystemExit, match='does not fit the config'):
        benchmark(monkeypatch, capsys, spec, '--shape', 64, 96)
