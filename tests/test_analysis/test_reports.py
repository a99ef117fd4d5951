# SPDX-License-Identifier: Apache-2.0
"""Every number of the reports, against a case worked out by hand."""
import csv
import json

import numpy as np
import pytest
from conftest import table_rows
from pycocotools.coco import COCO

from mmfasternet.analysis.benchmark import report as benchmark
from mmfasternet.analysis.benchmark.candidates import Candidate
from mmfasternet.analysis.benchmark.race import Result
from mmfasternet.analysis.comparison import report as comparison
from mmfasternet.analysis.comparison.runs import Run
from mmfasternet.analysis.tables import markdown
from mmfasternet.evaluation.average_precision import METRICS, Evaluation
from mmfasternet.evaluation.detection_errors import ERRORS
from mmfasternet.visualization import benchmark as pictures
from mmfasternet.visualization import comparison as plots


# ------------------------------------------------------------- benchmark
def timed(target, seconds, macs, **fields):
    return Result(Candidate(target, (2, 3, 8, 6)), seconds, 1_230_000, macs,
                  **fields)


@pytest.fixture
def measured():
    # 21 rounds, so that the 5th and 95th percentiles are the 2nd and 20th
    rounds = np.arange(21)
    layers = [
        dict(name='a', kind='Conv 3x3 4->8', seconds=.006, macs=3e6,
             parameters=1000, bytes=2e6),
        dict(name='b', kind='Conv 3x3 8->8', seconds=.002, macs=1e6,
             parameters=500, bytes=1e6),
        dict(name='c', kind='Relu', seconds=.002 - 1e-6, macs=0, parameters=0,
             bytes=5e5),
        dict(name='d', kind='Relu', seconds=1e-6, macs=0, parameters=0,
             bytes=0)
    ]
    base = timed('base.py', list(.008 + .001 * rounds), 9e6)
    fast = timed('fast.py', list((.008 + .001 * rounds) / (1 + rounds / 10)),
                 4e6, memory=7_600_000, layers=layers)
    base.baseline = fast.baseline = base
    fast.published = {'paper: ms': '5'}
    # 20 MFLOP in half a second
    base.roof = fast.roof = 4e7, 'onnxruntime'
    return base, fast


def test_summary_of_a_race(measured):
    text = benchmark.summary(measured)
    base, fast = table_rows(text)
    assert fast == {
        'network': 'fast', 'parameters M': '1.23',
        # 2 FLOP per MAC, and half of the batch
        'GFLOPs (2 x GMACs)': '0.00400',
        # (8 + i) / (1 + i / 10) falls from 8 to 28 / 3
        'ms (5th to 95th percentile)': fast['ms (5th to 95th percentile)'],
        'speed': '**2.00** (1.10 to 2.90)',
        'GFLOP/s': fast['GFLOP/s'],
        'of a matrix product': fast['of a matrix product'],
        'memory MB': '8', 'paper: ms': '5'
    }
    ms = np.median([(8 + i) / (1 + i / 10) for i in range(21)])
    assert fast['ms (5th to 95th percentile)'].startswith(f'{ms:.2f} (')
    rate = 2 * 4e6 / (1e-3 * ms)
    assert fast['GFLOP/s'] == f'{rate / 1e9:.3g}'
    assert fast['of a matrix product'] == f'{100 * rate / 4e7:.0f} %'
    assert base['ms (5th to 95th percentile)'] == '18.0 (9.00 to 27.0)'
    assert base['speed'] == '1' and base['GFLOP/s'] == '1.00'
    caption = text.split('\n\n')[0]
    for words in ('backend onnxruntime, precision fp32, threads 1, batch 2, '
                  'input 3x8x6', 'median of 21 interleaved rounds',
                  'matrix product: onnxruntime 0 GFLOP/s in fp32 on 1'):
        assert words in caption
    # of one alone, too
    assert benchmark.summary(measured[:1]).startswith(caption.split(';')[0])


def test_tables_of_layers(measured):
    caption, kinds, layers = benchmark.layer_tables(
        measured[1]).split('\n\n')
    assert '10.00 ms with the profiler on' in caption
    kinds, layers = table_rows(kinds), table_rows(layers)
    assert kinds[0] == {
        'kind': 'Conv 3x3', 'layers': '2', 'ms': '8.00',
        'of the time': '80.0 %', 'MMACs': '4.00', 'GFLOP/s': '1.00',
        'of a matrix product': '2500 %', 'FLOP/byte': '2.7',
        'parameters': '1,500', 'MB': '3.00'
    }
    assert [row['kind'] for row in kinds] == ['Conv 3x3', 'Relu']
    assert layers[0] == {
        'layer': 'a', 'kind': 'Conv 3x3 4->8', 'ms': '6.00',
        'of the time': '60.0 %', 'MMACs': '3.00', 'GFLOP/s': '1.00',
        'of a matrix product': '2500 %', 'FLOP/byte': '3.0',
        'parameters': '1,000', 'MB': '2.00'
    }
    assert [row['layer'] for row in layers] == [
        'a', 'b', 'c', '1 more, each below 0.1%']
    assert layers[3]['ms'] == '0.00100' and layers[2]['MMACs'] == '-'
    # a thousandth of the time is not below it
    measured[1].layers[2:] = []
    for row, seconds in zip(measured[1].layers, (.999, .001)):
        row['seconds'] = seconds
    *_, layers = benchmark.layer_tables(measured[1]).split('\n\n')
    assert [row['layer'] for row in table_rows(layers)] == ['a', 'b']


def test_json_of_a_race(measured):
    base, fast = map(benchmark.as_json, measured)
    assert 'speed' not in base
    assert (fast['speed'], fast['speed_p5'], fast['speed_p95']) == \
        pytest.approx((2, 1.1, 2.9))
    assert [base[f'median_seconds{end}'] for end in ('', '_p5', '_p95')] == \
        pytest.approx([.018, .009, .027])
    assert base['flops_per_second'] == pytest.approx(1e9)
    assert base['matrix_product_flops_per_second'] == 4e7
    assert base['matrix_product_backend'] == 'onnxruntime'
    assert base['share_of_matrix_product'] == pytest.approx(25)
    assert base['name'] == 'base'
    assert fast['baseline']['target'] == 'base.py'
    assert fast['published'] == {'paper: ms': '5'}
    assert json.loads(json.dumps([base, fast])) == [
        {**row, 'candidate': {**row['candidate'], 'shape': [2, 3, 8, 6]}, **(
            {'baseline': {**row['baseline'], 'shape': [2, 3, 8, 6]}}
            if 'baseline' in row else {})} for row in (base, fast)]


def test_what_is_drawn_of_a_race(measured):
    base, fast = measured
    axes, = pictures.draw_latency([base], {}).axes
    points, = axes.collections
    np.testing.assert_allclose(points.get_offsets(), [[18, .0045]])
    assert points.get_label() == 'onnxruntime fp32, 1 thread(s), batch 2'
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('latency, ms', 'GMACs')
    legend, = axes.get_legend().get_texts()
    assert legend.get_text() == points.get_label()
    axes, = pictures.draw_latency([base, fast], {'fast.py': .4}).axes
    points, = axes.collections
    assert [t.get_text() for t in axes.texts] == ['fast']
    assert points.get_offsets().tolist()[0][1] == .4
    assert axes.get_ylabel() == 'AP'
    base.bandwidth = fast.bandwidth = 2e6
    axes, = pictures.draw_roofline([base, fast]).axes
    nothing, points = axes.collections
    # 6 MFLOP in 2 MB and 6 of 10 ms; what does not multiply is not shown
    np.testing.assert_allclose(points.get_offsets(), [[3, 1], [2, 1]])
    np.testing.assert_allclose(points.get_sizes(), [10 + 900, 10 + 300])
    assert points.get_label() == 'fast, onnxruntime fp32'
    assert not len(nothing.get_offsets())
    # 0.04 GFLOP/s, which 0.002 GB/s feed from 20 FLOP per byte on
    roof, = axes.lines
    assert roof.get_xydata() == pytest.approx(
        np.array([[.25, .0005], [20, .04], [512, .04]]))
    assert roof.get_label() == 'matrix product, fp32, 1 thread(s)'
    assert axes.get_xscale() == axes.get_yscale() == 'log'
    assert len(axes.get_legend().get_texts()) == 3


def test_a_table_is_aligned():
    """Names to the left, numbers to the right, and no cell is two."""
    assert markdown([dict(a='x|y', b=1), dict(b=2222, c='')]) == (
        '| a    |    b |   c |\n'
        '| ---- | ---: | --: |\n'
        '| x\\|y |    1 |     |\n'
        '|      | 2222 |     |')


# ------------------------------------------------------------- comparison
def detected(*scores):
    """Two images with one object each; found in those that have a score."""
    coco = COCO()
    box = dict(category_id=1, bbox=[0, 0, 50, 50], area=2500, iscrowd=0)
    coco.dataset = dict(
        images=[dict(id=i, file_name=f'{i}.png') for i in (1, 2)],
        annotations=[dict(box, id=i, image_id=i) for i in (1, 2)],
        categories=[dict(id=1, name='cat')])
    coco.createIndex()
    return Evaluation(coco, [
        dict(image_id=i + 1, category_id=1, bbox=box['bbox'], score=score)
        for i, score in enumerate(scores) if score])


def test_accuracy_of_seeds_and_differences():
    # one of two objects found: precision 1 at 51 of 101 recalls
    half = 51 / 101
    text = comparison.accuracy(
        dict(A=[detected(.9, .9), detected(.9, 0)], B=[detected(.9, 0)]), 200)
    means, seeds, differences = (
        table_rows(part) for part in text.split('\n\n') if part[0] == '|')
    a, b = means
    spread = (1 - half) / 2**.5
    assert a['seeds'] == '2'
    assert a['AP'] == a['AP of cat'] == a['AP_m'] == \
        f'{(1 + half) / 2:.3f} ± {spread:.3f}'
    assert a['AR'] == f'0.750 ± {.5 / 2**.5:.3f}' and b['AR'] == '0.500'
    assert b['AP'] == '0.505' and b['AP_s'] == 'nan'
    assert seeds == [{'detector': 'A', 'run 1': '1.000', 'run 2': '0.505'},
                     {'detector': 'B', 'run 1': '0.505', 'run 2': ''}]
    difference, = differences
    # a sample has the first image 0, 1 or 2 times: the second seed of A and B
    # are alike, the first of A finds all, so half of what B misses is lost
    assert difference['AP'] == \
        f'{half - (1 + half) / 2:+.3f} (-0.500 to +0.000)'
    assert set(difference) == {'detector', *METRICS, 'AP of cat'}


def test_errors_of_seeds():
    text = comparison.errors(dict(A=[detected(.9, 0), detected(.9, .9)]))
    row, = table_rows(text)
    # fixing what is missed gains 50 of 101 recalls, in one of two seeds
    assert row == {'detector': 'A', **dict.fromkeys(ERRORS, '0.000'),
                   'Miss': f'{50 / 101 / 2:.3f}'}


def test_pictures_are_of_the_first_seeds(monkeypatch, tmp_path):
    matrices, pairs = [], []
    monkeypatch.setattr(plots, 'plot_confusion', lambda matrix, *args:
                        matrices.append(matrix.tolist()) or 'drawn')
    monkeypatch.setattr(
        plots, 'plot_disagreements',
        lambda pair, classes, count: pairs.append(pair) or 'drawn')
    seeds = dict(A=[detected(.9, .9), detected(.9, 0)],
                 B=[detected(.9, 0), detected(0, 0)])
    found = plots.plot_all(seeds, {}, {}, tmp_path)
    assert [name for name, *_ in found] == [
        'pr_curves', 'confusion_1', 'confusion_2', 'disagreements']
    assert matrices == [[[2, 0], [0, 0]], [[1, 1], [0, 0]]]
    pair, = pairs
    assert {name: [len(r.boxes) for r in results]
            for name, results in pair.items()} == dict(A=[1, 1], B=[1, 0])
    assert pair['A'][0].path == str(tmp_path / '1.png')
    # without the images there is nothing to disagree on
    assert len(plots.plot_all(seeds, {}, {}, None)) == 3


def test_cost_of_detectors(tmp_path):
    for name, speeds in dict(A=(10, 30, 20), B=(40, )).items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / 'results.csv').open('w') as file:
            writer = csv.writer(file)
            writer.writerow(['epoch', 'images/s', 'memory'])
            writer.writerows([i + 1, speed, 100 + speed]
                             for i, speed in enumerate(speeds))
    logs = {name: [Run(name, 1, work_dir=tmp_path / name).log()]
            for name in 'AB'}
    a, b = timed('a.py', [.02, .03, .04], 2e9), timed('b.py', [.01] * 3, 1e9)
    a.baseline = b.baseline = a
    text = comparison.cost(
        logs, {'onnxruntime fp32': dict(A=a, B=b)}, ['--amp'])
    first, second = table_rows(text)
    assert first == {
        'detector': 'A', 'parameters M': '1.23', 'GMACs': '2.00',
        'ms, onnxruntime fp32': '30.0', 'speed, onnxruntime fp32': '',
        'training images/s': '20.0', 'memory MiB': '130'
    }
    assert second['ms, onnxruntime fp32'] == '10.0'
    assert second['speed, onnxruntime fp32'] == '3.00 (2.10 to 3.90)'
    assert second['training images/s'] == '40.0'
    assert 'batch 2, 3x8x6, 1 thread' in text and '(`--amp`)' in text
    assert comparison.cost(dict(C=[Run('C', 1).log()]), {}, []) == ''
