# SPDX-License-Identifier: GPL-3.0-only
"""Each option of a tool reaches what it is for.

What takes long is replaced by a function that notes what it was asked for;
the tests beside this one run it.
"""
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import table_rows
from trees import voc_xml, write_image

from mmfasternet.models import FasterNet

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402

BENCHMARK = 'tools/analysis_tools/benchmark.py'
COMPARE = 'tools/analysis_tools/compare.py'
EXPORT = 'tools/deploy/export.py'
QUANTIZE = 'tools/deploy/quantize.py'
N = 'configs/yolov8_fasternet_n.py'


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool here, and give what it prints."""

    def run(path, *arguments, **replaced):
        spec = importlib.util.spec_from_file_location('tool', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in replaced.items():
            monkeypatch.setattr(module, name, function)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


def asked(tool, name, function, path, *arguments):
    """What a tool asks a function for, by the names of its arguments."""
    found = []

    def note(*args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        found.append(bound.arguments)
        raise ValueError('it is noted')

    with pytest.raises(SystemExit, match='error: it is noted'):
        tool(path, *arguments, **{name: note})
    return found[0]


# ------------------------------------------------------------ export
@pytest.mark.parametrize('options, expected', [
    ((), dict(shape=[1, 64, 64], img_scale=[64, 64], score_thr=0.001,
              max_per_img=300, nms=False)),
    (('--batch-size', 3), dict(shape=[3, 64, 64])),
    (('--shape', 32, 96), dict(shape=[1, 32, 96], img_scale=[96, 32])),
    (('--dynamic', ), dict(shape=[None, None, None], img_scale=[64, 64])),
    (('--score-thr', 0.25), dict(score_thr=0.25)),
    (('--cfg-options', 'model.test_cfg.max_per_img=7'), dict(max_per_img=7)),
])
def test_what_is_exported(options, expected, tool, small, tmp_path):
    out = tmp_path / 'detector.pth'
    tool(EXPORT, small.config, small.checkpoint, out, *options)
    meta = torch.load(out, weights_only=False)['meta']
    found = json.loads(meta['mmfasternet'])
    assert {key: found[key] for key in expected} == expected


def test_what_only_files_of_an_engine_have(tool, small):
    from mmfasternet.deploy import export
    for options, expected in (((), (False, 18)), (('--nms', ), (True, 18)),
                              (('--opset', 20), (False, 20))):
        found = asked(tool, 'export', export, EXPORT, small.config,
                      small.checkpoint, 'x.onnx', *options)
        assert (found['nms'], found['opset']) == expected


# ------------------------------------------------------------ quantize
@pytest.fixture
def quantize(tool, small, exported, tmp_path):
    """The tool on a file of batch 2, with APs, times and parts made up: the
    images and the parts kept in float of each attempt, and what it prints."""
    pytest.importorskip('onnxruntime')

    def run(*options, aps=()):
        attempts, timed, aps = [], [], iter(aps)

        def speed(paths, images, threads, runs):
            timed.append((threads, runs))
            return [np.full(runs, 0.02), np.full(runs, 0.005)]

        out = tool(
            QUANTIZE, small.config, exported['fixed.onnx'],
            tmp_path / 'int8.onnx', '--images', small.folder, *options,
            quantize=lambda path, out, images, keep: attempts.append(
                (images, [*keep])),
            average_precision=lambda *args: next(aps),
            sensitivity=lambda *args: dict(worst=.3, bad=.2, good=.1),
            parts=lambda path: ['worst', 'bad', 'good', 'best'],
            speed=speed)
        assert next(aps, None) is None  # as often measured as expected
        return attempts, timed[0], out

    return run


def test_how_many_images_and_runs(quantize):
    (images, keep), = quantize(aps=(.5, .3))[0]
    assert keep == [] and images.shape == (6, 3, 64, 64)  # 5, in batches of 2
    assert (images[5] == images[0]).all()
    attempts, timed, out = quantize(
        '--num-images', 3, '--threads', 3, '--runs', 7, '--keep', 'good',
        'best', aps=(.5, .3))
    (some, keep), = attempts
    # three of five, evenly spread
    assert (some == images[[0, 1, 3, 0]]).all()
    assert keep == ['good', 'best'] and timed == (3, 7)
    for words in ('calibrated on 4 images, in float: good, best',
                  'AP 0.5000 in float, 0.3000 in int8',
                  '20.0 ms in float, 5.0 ms in int8, 3 thread(s): 4.00 times '
                  'as fast (4.00 to 4.00, 7 interleaved runs)',
                  '2 of 4 parts in int8'):
        assert words in out
    assert quantize(aps=(.5, .3))[1] == (1, 20)


@pytest.mark.parametrize('drop, aps, kept', [
    (0.25, (.5, .3), [[]]),
    (0.1, (.5, .3, .35, .42), [[], ['worst'], ['worst', 'bad']]),
    # no part is left
    (0, (.5, .3, .3, .3, .3), [[], ['worst'], ['worst', 'bad'],
                               ['worst', 'bad', 'good']]),
])
def test_parts_are_kept_in_float_until_ap_is_near(drop, aps, kept, quantize):
    attempts, _, out = quantize('--max-drop', drop, aps=aps)
    assert [keep for _, keep in attempts] == kept
    assert '| worst | 0.3000 |' in out


def test_without_a_test_there_is_no_ap(quantize, capsys):
    attempts, _, out = quantize('--no-test', '--sensitivity')
    assert [keep for _, keep in attempts] == [[]]
    assert 'AP' not in out and '| good | 0.1000 |' in out
    assert '| worst' not in quantize('--no-test')[2]
    with pytest.raises(SystemExit) as stop:
        quantize('--no-test', '--max-drop', 0.1)
    assert stop.value.code == 2
    assert '--max-drop is measured' in capsys.readouterr().err


# ------------------------------------------------------------ test
def test_pictures_boxes_and_hooks_of_a_test(tool, small, truth, tmp_path):
    options = [f'{key}={value}' for key, value in truth.items()]
    # MMEngine keeps visualizers by name, and those of other tests with them
    options.append(f'visualizer.name={tmp_path.name}')
    tool('tools/test.py', small.config, small.checkpoint, '--work-dir',
         tmp_path, '--show-dir', 'painted', '--deploy', '--json-prefix',
         tmp_path / 'found', '--cfg-options', *options)
    assert sorted(path.name for path in tmp_path.glob('*/painted/*')) == [
        f'{i}.png' for i in range(1, 6)]
    boxes = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert {box['image_id'] for box in boxes} == {1, 2, 3, 4, 5}
    log, = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert 'SwitchToDeployHook' in text and 'bbox_mAP_copypaste' not in text


# ------------------------------------------------------------ measuring
def candidates(tool, *arguments):
    from mmfasternet.analysis.benchmark.race import measure
    found = asked(tool, 'measure', measure, BENCHMARK, *arguments)
    return [pair.candidate for pair in found['pairs']], found


def test_how_the_benchmark_runs_a_network(tool):
    (one, ), found = candidates(tool, N)
    assert (one.backend, one.precision, one.threads, one.shape, one.device,
            one.channels_last, one.compile) == (
                'onnxruntime', 'fp32', 1, (1, 3, 640, 640), 'cpu', False,
                False)
    assert (found['rounds'], found['profile']) == (30, False)
    several, found = candidates(
        tool, N, '--backends', 'pytorch', '--precisions', 'bf16',
        '--threads', 2, 1, '--batch-sizes', 4, '--shape', 64, 96, '--runs', 7,
        '--channels-last', '--compile', '--profile', '--cfg-options',
        'model.backbone.arch=t1')
    assert {c.threads for c in several} == {1, 2} and len(several) == 2
    for c in several:
        assert (c.backend, c.precision, c.shape, c.channels_last,
                c.compile) == ('pytorch', 'bf16', (4, 3, 64, 96), True, True)
        assert json.loads(c.options) == {'model.backbone.arch': 't1'}
    assert (found['rounds'], found['profile']) == (7, True)


def test_the_operators_of_the_paper_are_compared_with_the_first(tool):
    several, found = candidates(tool, '--operators')
    names = [c.target.split(':')[1] for c in several]
    assert names[0] == 'conv' and len(set(names)) == 4
    assert {p.baseline.target for p in found['pairs']} == {several[0].target}


def test_what_compare_trains(tool, tmp_path):
    from mmfasternet.analysis.comparison.runs import prepare
    common = ('A=a.py', 'b.py', '--work-dir', tmp_path)
    found = asked(tool, 'prepare', prepare, COMPARE, *common)
    assert [*found.values()] == [
        ['A=a.py', 'b.py'], None, [1, 2, 3], tmp_path, {}, False]
    found = asked(
        tool, 'prepare', prepare, COMPARE, *common, '--recipe', 'r.py',
        '--seeds', 4, '--unmodified', '--cfg-options', 'max_epochs=5')
    assert [*found.values()] == [
        ['A=a.py', 'b.py'], 'r.py', [4], tmp_path, dict(max_epochs=5), True]


def test_parts_of_the_cost(tool, small):
    rows = table_rows(tool('tools/analysis_tools/get_flops.py', small.config,
                           '--shape', 64))
    assert [row['module'] for row in rows] == [
        'backbone', 'neck', 'bbox_head', 'total']
    rows = table_rows(tool('tools/analysis_tools/get_flops.py', small.config,
                           '--shape', 64, '--show-arch'))
    names = [row['module'] for row in rows]
    assert 'backbone.stages.0.blocks.0' in names and names[-1] == 'total'


# ------------------------------------------------------------ files
def test_one_of_two_backbones_in_a_file(tool, tmp_path):
    torch.manual_seed(0)
    arch = dict(embed_dim=8, depths=(1, 1, 1, 1))
    nets = {name: FasterNet(arch).state_dict() for name in ('big', 'small')}
    torch.save({f'{name}.{key}': value for name, net in nets.items()
                for key, value in net.items()}, tmp_path / 'two.pth')
    convert = 'tools/model_converters/convert_backbone.py'
    for name, net in nets.items():
        out = tmp_path / f'{name}.pth'
        tool(convert, tmp_path / 'two.pth', out, '--to', 'authors',
             '--prefix', name)
        found = torch.load(out)
        assert found.keys() == net.keys()
        assert all(torch.equal(found[key], net[key]) for key in net)
    with pytest.raises(SystemExit, match='2 FasterNets in the checkpoint, bel'
                       "ow 'big.', 'small.': choose one"):
        tool(convert, tmp_path / 'two.pth', tmp_path / 'x.pth')


def test_the_variant_of_a_recipe(tool, tmp_path):
    recipe = tmp_path / 'yolov8n-fasternet.yaml'
    recipe.write_text(reference.RECIPE)
    for i, (options, arch) in enumerate(((('--arch', 's'), 's'), ((), 't2'))):
        out = tmp_path / f'{i}.py'
        tool('tools/model_converters/import_recipe.py', recipe, out, *options)
        assert re.findall(r"arch='(\w+)'", out.read_text()) == [arch]


def test_the_splits_of_voc(tool, tmp_path):
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (tmp_path / 'voc' / folder).mkdir(parents=True)
    for split in ('train', 'val', 'extra'):
        (tmp_path / f'voc/ImageSets/Main/{split}.txt').write_text(split)
        (tmp_path / f'voc/Annotations/{split}.xml').write_text(
            voc_xml(f'{split}.png', 64, 48, [('dog', 0, 0, 8, 8)]))
        write_image(tmp_path / f'voc/JPEGImages/{split}.png', 64, 48)
    for options, splits in (((), ['train', 'val']), (
            ('--splits', 'extra', 'val'), ['extra', 'val'])):
        out = tmp_path / f'out{len(options)}'
        tool('tools/dataset_converters/voc2coco.py', tmp_path / 'voc', out,
             *options)
        assert sorted(p.stem for p in out.glob('annotations/*')) == splits
