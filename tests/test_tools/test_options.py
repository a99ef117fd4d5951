# SPDX-License-Identifier: GPL-3.0-only
"""Each option of a tool reaches what it is for.

What takes long is replaced by a function that notes what it was asked for;
the tests beside this one run it.
"""
import importlib.util
import inspect
import json
import re
import shutil
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from conftest import table_rows
from mmengine.runner import set_random_seed
from mmengine.visualization import Visualizer
from trees import voc_xml, write_image

from mmfasternet.config import load_config
from mmfasternet.models import FasterNet

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402

BENCHMARK = 'tools/analysis_tools/benchmark.py'
COMPARE = 'tools/analysis_tools/compare.py'
FROM_FILE = 'tools/analysis_tools/benchmark_from_file.py'
EXPORT = 'tools/deploy/export.py'
QUANTIZE = 'tools/deploy/quantize.py'
STATS = 'tools/analysis_tools/layer_stats.py'
STEPS = 'tools/analysis_tools/benchmark_training.py'
VERIFY = 'tools/misc/verify_weights.py'
IMAGE, LARGE, VIDEO, WEB = (
    f'demo/{kind}_demo.py' for kind in ('image', 'large_image', 'video',
                                        'web'))
N = 'configs/yolov8_fasternet_n.py'


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool here, and give what it prints."""

    def run(path, *arguments, **replaced):
        # as for a script of that folder
        monkeypatch.syspath_prepend(str(Path(path).parent))
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


def asked(tool, name, function, path, *arguments, **replaced):
    """What a tool asks a function for, by the names of its arguments."""
    found = []

    def note(*args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        found.append(bound.arguments)
        raise ValueError('it is noted')

    with pytest.raises(SystemExit, match='error: it is noted'):
        tool(path, *arguments, **{name: note}, **replaced)
    return found[0]


# ------------------------------------------------------------ demos
@pytest.fixture
def sahi(monkeypatch):
    """One patch of all of the image; how it was to be cut and merged."""
    from mmyolo.utils import large_image
    found = []

    def slice_image(image, **options):
        found.append(options)
        return SimpleNamespace(images=[image], starting_pixels=[[0, 0]])

    def merge(results, places, shape, nms_cfg):
        found.append((places, shape, dict(nms_cfg)))
        return results[0]

    monkeypatch.setattr(large_image, 'merge_results_by_nms', merge)
    for name in ('sahi', 'sahi.slicing'):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.slice_image = slice_image
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.mark.parametrize('path', [IMAGE, LARGE])
def test_what_runs_in_a_demo_of_images(path, tool, small, sahi, monkeypatch):
    from mmfasternet.deploy import Predictor, TrainedPredictor
    given = path, small.images[0], small.config, small.checkpoint

    def loaded(kind, *options):
        with monkeypatch.context() as patch:
            found = []
            signature = inspect.signature(kind)

            def note(*args):
                found.append(signature.bind(*args).arguments)
                raise ValueError('it is noted')

            patch.setattr(f'mmfasternet.deploy.{kind.__name__}', note)
            with pytest.raises(SystemExit, match='it is noted'):
                tool(*given, *options)
        found, = found
        assert found.pop('config').filename == small.config
        return [*found.values()]

    file = small.checkpoint
    assert loaded(TrainedPredictor) == [file, None]
    assert loaded(TrainedPredictor, '--device', 'cuda:1') == [file, 'cuda:1']
    usual = dict(backend='openvino', precision='bf16', threads=3,
                 device='cuda:1')
    words = [f'--{key}={value}' for key, value in usual.items()]
    assert loaded(Predictor, *words) == [file, *usual.values()]
    if path == LARGE:
        assert loaded(Predictor, '--deploy') == [
            file, 'pytorch', 'fp32', None, 'cpu']
        assert loaded(Predictor, '--deploy', *words)[1] == 'openvino'
    for option in ('--precision=bf16', '--threads=3'):
        with pytest.raises(SystemExit, match='are those of an engine: give'):
            tool(*given, option)


def test_how_patches_are_cut_and_merged(tool, small, sahi, tmp_path):
    given = (LARGE, small.images[0], small.config, small.checkpoint,
             '--device', 'cpu', '--out-dir', tmp_path)
    for options, size, overlap, limit, kind in (
        ((), 640, 0.25, 0.25, 'nms'),
        (('--patch-size', 96, '--patch-overlap-ratio', 0.5, '--merge-iou-thr',
          0.75, '--merge-nms-type', 'soft_nms'), 96, 0.5, 0.75, 'soft_nms'),
    ):
        sahi.clear()
        tool(*given, *options)
        assert sahi == [
            dict(slice_height=size, slice_width=size,
                 overlap_height_ratio=overlap, overlap_width_ratio=overlap,
                 auto_slice_resolution=False),
            ([[0, 0]], (120, 60), dict(type=kind, iou_threshold=limit))]


@pytest.mark.parametrize('path', [IMAGE, LARGE])
def test_a_window_has_the_picture(path, tool, small, sahi, monkeypatch,
                                  tmp_path):
    shown = []
    monkeypatch.setattr(Visualizer, 'show',
                        lambda self, *args: shown.append(args))
    given = (path, small.images[0], small.config, small.checkpoint,
             '--device', 'cpu', '--out-dir', tmp_path)
    tool(*given)
    assert not shown
    monkeypatch.setattr(matplotlib, 'get_backend', lambda: 'agg')
    with pytest.raises(SystemExit, match='error: a picture cannot be shown'):
        tool(*given, '--show')
    assert not shown
    monkeypatch.setattr(matplotlib, 'get_backend', lambda: 'qtagg')
    tool(*given, '--show')
    (picture, title), = shown
    # matplotlib's, of red, green and blue
    assert (picture[..., ::-1] == cv2.imread(str(tmp_path / 'vis/0.png'))
            ).all() and title == 'detections'


def test_a_window_of_a_video_is_closed_by_q(tool, small, exported, video,
                                            monkeypatch, tmp_path):
    shown, keys = [], iter([-1, ord('x'), ord('q')])
    monkeypatch.setattr(cv2, 'imshow', lambda *args: shown.append(args))
    monkeypatch.setattr(cv2, 'waitKey', lambda wait: next(keys))
    given = VIDEO, video, small.config, exported['any.onnx']
    assert f'{video}: 12 frames, ' in tool(*given, '--score-thr', 1)
    assert not shown
    out = tool(*given, '--score-thr', 1, '--show')
    assert f'{video}: 3 frames, 0 boxes, ' in out
    # as bright as they were written, and nothing is drawn above 1
    assert [title for title, _ in shown] == 3 * [video]
    for i, (_, picture) in enumerate(shown):
        assert picture.mean() == pytest.approx(20 * i, abs=2)


def test_what_runs_in_a_demo_of_videos(tool, small, video, monkeypatch):
    from mmfasternet.deploy import Predictor
    found = []

    def note(*args):
        found.append([*inspect.signature(Predictor).bind(
            *args).arguments.values()])
        raise ValueError('it is noted')

    monkeypatch.setattr('mmfasternet.deploy.Predictor', note)
    for options in ((), ('--backend=openvino', '--precision=bf16',
                         '--threads=3', '--device=cuda:1',
                         '--score-thr=.5')):
        with pytest.raises(SystemExit, match='it is noted'):
            tool(VIDEO, video, small.config, small.checkpoint, *options)
    assert [(args[0], *args[2:]) for args in found] == [
        (small.checkpoint, None, 'fp32', None, 'cpu', .3),
        (small.checkpoint, 'openvino', 'bf16', 3, 'cuda:1', .5)]


def test_what_the_web_page_offers(tool, small, monkeypatch, tmp_path):
    for name in ('GRADIO_ANALYTICS_ENABLED', 'HF_HUB_OFFLINE',
                 'GRADIO_TEMP_DIR'):
        monkeypatch.setenv(name, '')
    other = tmp_path / 'other.py'
    other.write_text(Path(small.config).read_text())
    again = tmp_path / 'again.pth'
    again.write_bytes(Path(small.checkpoint).read_bytes())
    loaded, served = [], []

    class Loaded:
        backend = SimpleNamespace(info=SimpleNamespace(img_scale=(64, 32)))

        def __init__(self, file, config, *args, **options):
            loaded.append((config.filename, file, *args, options))
            self.limit = config.model.test_cfg.max_per_img

        def __call__(self, image):
            loaded[-1] += (image.shape, self.limit)

    def run(*options):
        loaded.clear()
        tool(WEB, small.config, small.checkpoint, *options,
             Predictor=Loaded, find_spec=lambda name: True,
             build_page=lambda *args: args,
             launch=lambda *args: served.append(args))
        return served.pop()

    (models, *shown), *where = run()
    assert (shown, where) == ([None, .3], ['127.0.0.1', 7860])
    assert [*models.models] == ['small, small.pth']
    # each is tried before the page is there
    assert loaded == [(small.config, small.checkpoint, None,
                       dict(threads=None, device='cpu'), (32, 64, 3), 300)]
    (models, *shown), *where = run(
        '--compare', other, again, '--compare', small.config,
        small.checkpoint, '--threads', 3, '--device', 'cuda:1', '--backend',
        'openvino', '--score-thr', .5, '--server-name', '0.0.0.0',
        '--server-port', 8000, '--cfg-options', 'model.test_cfg.max_per_img=7')
    assert (shown, where) == (['openvino', .5], ['0.0.0.0', 8000])
    assert [*models.models] == ['small, small.pth', 'other, again.pth',
                                "small, small.pth'"]
    options = dict(threads=3, device='cuda:1')
    assert loaded == [
        (config, file, 'openvino', options, (32, 64, 3), limit)
        for config, file, limit in (
            (small.config, small.checkpoint, 7),
            (str(other), str(again), 300),
            (small.config, small.checkpoint, 300))]
    with pytest.raises(SystemExit, match='no such file: none.pth'):
        run('--compare', other, 'none.pth')


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


# ------------------------------------------------------------ train
@pytest.fixture
def built(tool, coco_options, monkeypatch):
    """The config that a tool builds its runner from."""

    def run(path, *arguments, options=(), **replaced):
        found = []

        def note(cfg):
            found.append(cfg)
            sys.exit('it is noted')

        monkeypatch.setattr('mmfasternet.cli.build_runner', note)
        given = [f'{key}={value}'.replace(' ', '')
                 for key, value in coco_options.items()]
        with pytest.raises(SystemExit, match='it is noted'):
            tool(path, *arguments, '--cfg-options', *given, *options,
                 **replaced)
        return found[0]

    return run


@pytest.mark.parametrize('device, type, scale', [
    ('cpu', 'mmfasternet.CPUAmpOptimWrapper', None),
    ('cuda', 'AmpOptimWrapper', 'dynamic')])
def test_mixed_precision(device, type, scale, built, tmp_path):
    asked_for = []
    devices = dict(get_device=lambda: device,
                   require_bfloat16=lambda: asked_for.append(1))
    given = 'tools/train.py', N, '--work-dir', tmp_path
    assert built(*given, **devices).optim_wrapper.type == 'OptimWrapper'
    wrapper = built(*given, '--amp', **devices).optim_wrapper
    assert (wrapper.type, wrapper.get('loss_scale')) == (type, scale)
    assert asked_for == [1] * (device == 'cpu')
    # what the config asks for is for a GPU
    wrapper = built(*given, '--amp', options=['optim_wrapper.loss_scale=64'],
                    **devices).optim_wrapper
    assert wrapper.get('loss_scale') == (64 if device == 'cuda' else None)


def test_tensorboard_must_be_there_where_it_is_asked_for(
        built, tool, coco_options, tmp_path):
    given = 'tools/train.py', N, '--work-dir', tmp_path
    # where it is not asked for it need not be there
    assert 'TensorboardVisBackend' not in str(
        built(*given, find_spec=lambda name: None).visualizer)
    cfg = built(*given, options=['tensorboard=True'], find_spec={
        'tensorboard': 1}.get)
    assert 'TensorboardVisBackend' in str(cfg.visualizer)
    with pytest.raises(SystemExit, match='error: .* pip install tensorboard'):
        tool(*given, '--cfg-options', 'tensorboard=True', *(
            f'{key}={value}'.replace(' ', '')
            for key, value in coco_options.items()),
             find_spec=lambda name: None)


def test_where_a_run_goes_on(built, tmp_path, monkeypatch, capsys):
    saved, fresh = tmp_path / 'saved[1]', tmp_path / 'fresh'
    saved.mkdir()
    (saved / 'epoch_1.pth').touch()
    for restarted, folder, words, expected in (
        (0, saved, [], (False, 'old.pth')),
        (0, saved, ['--resume'], (True, None)),
        (0, saved, ['--resume', 'x.pth'], (True, 'x.pth')),
        (0, fresh, ['--resume'], (False, 'old.pth')),
        (0, fresh, ['--resume', 'x.pth'], (True, 'x.pth')),
        # by its launcher, after it had begun
        (1, saved, [], (True, None)),
        (1, saved, ['--resume', 'x.pth'], (True, None)),
        (1, fresh, ['--resume', 'x.pth'], (True, 'x.pth')),
        (1, fresh, [], (False, 'old.pth')),
    ):
        monkeypatch.setenv('SLURM_RESTART_COUNT', str(restarted))
        cfg = built('tools/train.py', N, '--work-dir', folder, *words,
                    options=['load_from=old.pth'])
        assert (cfg.get('resume', False), cfg.load_from) == expected
        assert (f'nothing to resume in {fresh}: the' in capsys.readouterr(
            ).out) == (folder == fresh and words == ['--resume'])
        assert cfg.work_dir == str(folder)
    monkeypatch.delenv('SLURM_RESTART_COUNT')
    assert built('tools/train.py', N).work_dir == \
        './work_dirs/yolov8_fasternet_n'


# ------------------------------------------------------------ test
def test_how_a_test_shows_what_it_finds(built, small):
    given = 'tools/test.py', N, small.checkpoint
    hook = built(*given).default_hooks.visualization
    assert not hook.get('draw') and not hook.get('show')
    hook = built(*given, '--show', '--wait-time', 7).default_hooks[
        'visualization']
    assert (hook.draw, hook.show, hook.wait_time) == (True, True, 7)
    assert built(*given, '--show').default_hooks.visualization.wait_time == 2
    hook = built(*given, '--show-dir', 'there').default_hooks.visualization
    assert hook.draw and not hook.get('show') and hook.test_out_dir == 'there'


def test_how_a_test_runs_a_file(built, small, tmp_path):
    path = tmp_path / 'x.onnx'
    path.touch()
    used = []
    for options, expected in (
        ((), (None, 'fp32')),
            (('--backend', 'openvino', '--precision', 'bf16'),
             ('openvino', 'bf16'))):
        cfg = built('tools/test.py', N, path, *options,
                    use_exported=lambda cfg, *args: used.append(args))
        assert used.pop() == (str(path), *expected)
        assert cfg.load_from is None
    cfg = built('tools/test.py', N, small.checkpoint, '--tta')
    assert cfg.load_from == small.checkpoint
    assert cfg.model.type == 'mmdet.DetTTAModel'
    assert cfg.model.module.type == 'mmfasternet.AnyBackboneYOLODetector'
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


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


def test_pictures_of_two_images_of_one_name(tool, small, coco, tmp_path):
    """Each is drawn, in the folder that its image is in."""
    data = json.loads((coco / 'annotations/val.json').read_text())
    for folder, image in zip('ab', data['images']):
        path = tmp_path / 'val' / folder / 'x.png'
        path.parent.mkdir(parents=True)
        shutil.copy(coco / 'val' / image['file_name'], path)
        image['file_name'] = f'{folder}/x.png'
    data['images'] = data['images'][:2]
    data['annotations'] = [a for a in data['annotations'] if a['image_id'] in (
        image['id'] for image in data['images'])]
    (tmp_path / 'val.json').write_text(json.dumps(data))
    tool('tools/test.py', small.config, small.checkpoint, '--work-dir',
         tmp_path / 'out', '--show-dir', 'painted', '--cfg-options',
         f'test_dataloader.dataset.data_root={tmp_path}',
         'test_dataloader.dataset.ann_file=val.json',
         f'test_evaluator.ann_file={tmp_path}/val.json',
         f'visualizer.name={tmp_path.name}')
    painted, = tmp_path.glob('out/*/painted')
    assert sorted(str(path.relative_to(painted)) for path in painted.rglob(
        '*.png')) == ['a/x.png', 'b/x.png']


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


def test_how_a_file_is_timed(tool, small, exported, monkeypatch):
    """Of rounds of 1, 4 and 3 ms, 2, 4 and 6, 3, 4 and 5: medians of 2, 4 and
    4, of wholes of 6, 12 and 14, and of shares of 4 / 4, 8 / 4 and 8 / 6."""
    from mmfasternet.deploy import Predictor
    threads, loaded, asked_for = [], [], []
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)

    def load(*args, **options):
        loaded.append(options)
        return Predictor(*args, **dict(options, threads=1))

    def interleave(turns, rounds, warm_up):
        asked_for.append((rounds, warm_up, [*turns]))
        first, *_ = [turn() for turn in turns.values()]
        assert len(first) == 3 and min(first) > 0
        ours = 1e-3 * np.array([(1, 4, 3), (2, 4, 6), (5, 6, 3)])
        return {name: 1e-3 * np.array([16, 24, 28]) if name == 'baseline'
                else ours for name in turns}

    file = exported['any.onnx']
    out = tool(FROM_FILE, file, small.folder, '--baseline', small.config,
               Predictor=load, interleave=interleave)
    row, = table_rows(out)
    assert [*row.values()] == ['2.0', '4.0', '3.0', '12.0', '133.3%']
    assert f'{file}: 64x64, 1 thread(s), median of 30 images, ms' in out
    # 16 / 8, 24 / 12 and 28 / 14
    assert f'{small.config} by inference_detector, PyTorch: 24.0 ms, 2.00 ' \
        'times (2.00 to 2.00)' in out
    out = tool(FROM_FILE, file, small.folder, '--threads', 3, '--runs', 7,
               '--backend', 'openvino', '--precision', 'bf16', Predictor=load,
               interleave=interleave)
    assert '64x64, 3 thread(s), median of 7 images, ms' in out
    assert 'inference_detector' not in out
    assert threads == [1, 3]
    assert loaded == [
        dict(backend=None, precision='fp32', threads=1),
        dict(backend='openvino', precision='bf16', threads=3)]
    assert asked_for == [(30, 3, [file, 'baseline']), (7, 3, [file])]


def test_few_boxes_enter_nms_when_a_file_is_timed(tool, small, exported,
                                                  monkeypatch):
    found = []

    def interleave(turns, rounds, warm_up):
        turn, = turns.values()
        turn()
        return {name: np.ones((rounds, 3)) for name in turns}

    from mmfasternet.deploy import predictor
    postprocess = predictor.postprocess
    monkeypatch.setattr(predictor, 'postprocess', lambda *args: found.append(
        postprocess(*args)) or found[-1])
    for options in ((), ('--score-thr', .5)):
        tool(FROM_FILE, exported['any.onnx'], small.images[0], *options,
             interleave=interleave)
    (usual, ), (best, ) = found
    assert 0 < len(best) < len(usual) and usual.scores.min() < .5
    assert best.scores.min() >= .5


def test_the_operators_of_the_paper_are_compared_with_the_first(tool):
    several, found = candidates(tool, '--operators')
    names = [c.target.split(':')[1] for c in several]
    assert names[0] == 'conv' and len(set(names)) == 4
    assert {p.baseline.target for p in found['pairs']} == {several[0].target}


def test_the_figures_of_the_paper_stand_beside_ours(tool):
    """Tables 1 and 3: ms, and how many times as fast as the first."""
    from mmfasternet.analysis.benchmark.race import measure
    for arguments, shape, figures in (
        (('--operators', ), (1, 96, 56, 56),
         [('35.67', '1.00'), ('21.9', '1.63'), ('3.59', '9.94'),
          ('5.46', '6.53')]),
        (('--backbones', 'MobileNetV2', 'FasterNet-T0'), (1, 3, 224, 224),
         [('12.2', '0.75'), ('9.2', '1.00')]),
    ):
        found = asked(tool, 'measure', measure, BENCHMARK, *arguments)
        assert {p.candidate.shape for p in found['pairs']} == {shape}
        assert [(*p.published.values(), ) for p in found['pairs']] == figures


def test_what_networks_are_compared_with(tool):
    a, b = (f'configs/yolov8_fasternet_{size}.py' for size in 'sm')
    for baselines, expected in (
        ([N], [(N, N), (a, N), (N, N), (b, N)]),
        ([b, N], [(b, b), (a, b), (N, N), (b, N)])):
        _, found = candidates(tool, a, b, '--baselines', *baselines)
        assert [(p.candidate.target, p.baseline.target)
                for p in found['pairs']] == expected
    _, found = candidates(tool, a)
    assert [p.baseline for p in found['pairs']] == [None]
    # in the way that it runs itself
    _, found = candidates(
        tool, a, '--baselines', N, '--backends', 'pytorch', '--precisions',
        'bf16', '--threads', 2, '--batch-sizes', 4, '--shape', 64, 96,
        '--channels-last', '--compile')
    pair = found['pairs'][-1]
    assert pair.baseline == replace(pair.candidate, target=N)


def test_what_a_benchmark_draws(tool, tmp_path):
    from mmfasternet.analysis.benchmark.candidates import Candidate
    from mmfasternet.analysis.benchmark.race import Result
    result = Result(Candidate(N, (1, 3, 8, 8)), [.25], 5, 7_000_000_000)
    drawn = []
    pictures = SimpleNamespace(draw_latency=lambda *args: drawn.append(
        args) or SimpleNamespace(savefig=lambda path: None))
    for options, accuracies in (((), {}), (('--ap', f'{N}=.4'), {N: .4})):
        tool(BENCHMARK, N, '--out-dir', tmp_path / 'out', *options,
             pictures=pictures, measure=lambda *args: [result])
        assert drawn.pop() == ([result], accuracies)


def test_what_compare_measures(tool, tmp_path, monkeypatch):
    """One run of each detector that has a config, at the size of the first,
    96 wide and 64 high."""
    from mmfasternet.analysis.benchmark.race import measure
    from mmfasternet.analysis.comparison.runs import Run
    runs = [Run('C', 1, file=tmp_path / 'c.json')]
    for name in 'AB':
        config = tmp_path / f'{name}.py'
        load_config(N, dict(img_scale=[96, 64])).dump(config)
        runs += [Run(name, seed, config) for seed in (1, 2)]
    trained = []
    monkeypatch.setattr(Run, 'train', lambda run, arguments: trained.append(
        (run.name, run.seed, arguments)))

    def measured(*options):
        trained.clear()
        return asked(
            tool, 'measure', measure, COMPARE, 'x.py', '--work-dir', tmp_path,
            *options, prepare=lambda *args: runs,
            evaluate=lambda *args: None)

    found = measured()
    assert trained == [(run.name, run.seed, []) for run in runs]
    assert found['rounds'] == 30
    a, b = (str(tmp_path / f'{name}.py') for name in 'AB')
    assert [(p.candidate.target, p.baseline.target, p.candidate.backend)
            for p in found['pairs']] == [
                (a, a, 'onnxruntime'), (a, a, 'openvino'),
                (b, a, 'onnxruntime'), (b, a, 'openvino')]
    assert {c.shape for p in found['pairs']
            for c in (p.candidate, p.baseline)} == {(1, 3, 64, 96)}
    found = measured('--amp', '--backends', 'pytorch', '--runs', 7)
    assert {arguments for *_, (arguments, ) in trained} == {'--amp'}
    assert found['rounds'] == 7
    assert {p.candidate.backend for p in found['pairs']} == {'pytorch'}


def test_what_a_training_step_costs(tool, coco_options):
    """Each with the 100 ms of its data: 600 / 300, 800 / 400 and 1000 / 500
    are 2, of two images."""
    asked_for, built = [], []

    def interleave(turns, rounds, warm_up):
        asked_for.append((rounds, warm_up))
        steps = dict(zip(turns, 1e-3 * np.array(
            [3 * [100], [500, 700, 900], [200, 300, 400], 3 * [150]])))
        assert list(steps)[0] == 'data'
        return steps

    given = [STEPS, N, '--baseline', N, '--cfg-options', *(
        f'{key}={value}'.replace(' ', '')
        for key, value in coco_options.items())]
    replaced = dict(
        interleave=interleave, has_bfloat16=lambda: True,
        build_step=lambda cfg, batch, amp=False: built.append(amp))
    out = tool(*given, **replaced)
    assert [[*row.values()] for row in table_rows(out)] == [
        [f'baseline: {N}', '700', '2.5', '1.00 (1.00 to 1.00)'],
        [N, '300', '5.0', '2.00 (2.00 to 2.00)'],
        [f'{N} --amp', '150', '8.0', '3.20 (2.48 to 3.92)']]
    assert 'data loading: 100 ms per step' in out
    assert ' 2 images per step, median of 12 interleaved steps' in out
    tool(*given[:4], '--steps', 5, *given[4:], **replaced)
    assert asked_for == [(12, 1), (5, 1)]
    assert built == 2 * [False, False, True]


def test_the_first_batch_of_a_seed(tool, coco_options):
    spec = importlib.util.spec_from_file_location('stats', STATS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for seed in (0, 7):
        found = asked(tool, 'first_batch', module.first_batch, STATS, N,
                      '--seed', seed, '--cfg-options', *(
                          f'{key}={value}'.replace(' ', '')
                          for key, value in coco_options.items()))
        assert found['seed'] == seed
    # the order of the images; what is done to them is of another seed
    batches = []
    for seed in (0, 0, 1):
        set_random_seed(0)
        batches.append(module.first_batch(found['cfg'], seed)['inputs'])
    assert torch.equal(*batches[:2])
    assert not torch.equal(*batches[1:])


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


def test_the_certificate_of_one_of_two_backbones(tool, tmp_path):
    torch.save({f'{name}.{key}': value for name in ('t0', 't1')
                for key, value in FasterNet(name).state_dict().items()},
               tmp_path / 'two.pth')
    for name in ('t0', 't1'):
        out = tool(VERIFY, tmp_path / 'two.pth', '--prefix', name)
        assert re.search(rf'variant +FasterNet-{name}\n', out)
    with pytest.raises(SystemExit, match="'t0.', 't1.': choose one"):
        tool(VERIFY, tmp_path / 'two.pth')


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
