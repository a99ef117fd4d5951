# SPDX-License-Identifier: Apache-2.0
"""What a training run shows, writes and survives."""
import fcntl
import io
import json
import logging
import math
import os
import re
import resource
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import read_csv
from mmdet.structures import DetDataSample
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from processes import run_script

from mmfasternet.config import load_config, our_hooks
from mmfasternet.engine import (
    InterruptHook,
    NonFiniteLossError,
    NonFiniteLossHook,
    ResultsHook,
)
from mmfasternet.engine.hooks import evaluation_figures_hook as figures
from mmfasternet.engine.hooks import progress_bar_hook as bar
from mmfasternet.engine.hooks import results_hook
from mmfasternet.engine.training_context import peak_memory

ALL_HOOKS = our_hooks().values()


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C works, even if the tests run in the background of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, previous)


# ------------------------------------------------------------- a detector
def detector(coco_options, work_dir, *hooks, **options):
    cfg = load_config('configs/yolov8_fasternet_n.py', {
        **coco_options, 'val_interval': 1,
        **options
    })
    for name in [*our_hooks(), 'level_assignment']:
        del cfg.default_hooks[name]
    cfg.custom_hooks += hooks
    cfg.work_dir = str(work_dir)
    # one of a known name is taken as it is, with the folder of another test
    cfg.experiment_name = cfg.visualizer.name = work_dir.name
    cfg.log_processor.window_size = 1
    cfg.default_hooks.logger.interval = 1
    return Runner.from_cfg(cfg)


@pytest.fixture(scope='module')
def trained(coco, coco_options, tmp_path_factory):
    """Two epochs; the model predicts what it is told to.

    Of the five validation images the first is right, the second and third are
    shifted, the fourth is of the wrong class, the fifth empty.
    """
    work_dir = tmp_path_factory.mktemp('trained')
    runner = detector(coco_options, work_dir, *ALL_HOOKS, max_epochs=2)
    truth = json.loads((coco / 'annotations/val.json').read_text())
    val_step = runner.model.val_step

    def told(data):
        samples = val_step(data)
        for sample in samples:
            i = sample.img_id - 1
            box = truth['annotations'][i]
            x, y, w, h = box['bbox']
            predicted = sample.pred_instances[:min(1, 4 - i)].clone()
            assert len(predicted) == (i < 4)
            if i < 4:
                x += [0, 2, 9, 0][i]
                predicted.bboxes[0] = torch.tensor([x, y, x + w, y + h])
                predicted.labels[0] = (box['category_id'] == 20) ^ (i == 3)
                predicted.scores[0] = [0.9, 0.8, 0.7, 0.6][i]
            sample.pred_instances = predicted
        return samples

    runner.model.val_step = told
    drawn = []  # what each figure was given

    def noted(draw):
        return lambda *args: (drawn.append(args[0]), draw(*args))[1]

    with pytest.MonkeyPatch.context() as patch:
        for name in ('plot_precision', 'plot_confusion', 'plot_images'):
            patch.setattr(figures, name, noted(getattr(figures, name)))
        runner.train()
    return work_dir, runner, drawn


def test_the_memory_of_a_process_is_what_the_system_says():
    if torch.cuda.is_available():
        pytest.skip('it is that of the GPU')
    least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = peak_memory()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == 'darwin' else 1024
    assert least * unit <= found <= most * unit


def peak_mib():
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_results_agree_with_the_log(trained):
    work_dir, runner, _ = trained
    rows = read_csv(work_dir)
    log, = work_dir.glob('*/vis_data/scalars.json')
    log = [json.loads(line) for line in log.read_text().splitlines()]
    assert list(rows[0]) == [
        'epoch', 'iteration', 'seconds', 'images/s', 'memory', 'lr', 'loss',
        'loss_cls', 'loss_bbox', 'loss_dfl', 'coco/bbox_mAP',
        'coco/bbox_mAP_50',
        'coco/bbox_mAP_75', 'coco/bbox_mAP_s', 'coco/bbox_mAP_m',
        'coco/bbox_mAP_l'
    ]
    assert [(r['epoch'], r['iteration']) for r in rows] == [('1', '3'),
                                                           ('2', '6')]
    scalars = runner.message_hub.log_scalars
    for epoch, row in enumerate(rows, 1):
        iterations = [x for x in log if x.get('epoch') == epoch]
        assert len(iterations) == 3
        for name in 'loss', 'loss_cls', 'loss_bbox', 'loss_dfl':
            logged = [x[name] for x in iterations]
            assert float(row[name]) == pytest.approx(np.mean(logged), 1e-5)
            history = scalars[f'train/{name}'].data[0][3 * epoch - 3:3 * epoch]
            assert float(row[name]) == pytest.approx(history.mean(), 1e-5)
        assert float(row['lr']) == pytest.approx(iterations[-1]['lr'], 1e-5)
        metrics, = (x for x in log if 'coco/bbox_mAP' in x
                    and x['step'] == epoch)
        for name in list(row)[10:]:
            assert float(row[name]) == metrics[name]
        assert float(row['seconds']) > 0
        # in MiB; another test of this process may have taken more since
        assert 200 < int(row['memory']) <= peak_mib() < 1.6 * int(
            row['memory'])
        # 5 images in 3 batches of 2: the last one is not full
        assert float(row['images/s']) * float(
            row['seconds']) == pytest.approx(5, 1e-4)


def test_figures_show_the_last_validation(trained):
    work_dir, _, (curves, matrix, best, worst) = trained
    # of the evaluation itself, which knows three digits
    expected = float(read_csv(work_dir)[-1]['coco/bbox_mAP_50'])
    assert 0.3 < expected < 0.9
    assert curves.mean() == pytest.approx(expected, abs=6e-4)
    for name, least in (('results', (400, 1000)), ('pr_curves', (500, 800)),
                        ('confusion_matrix', (400, 400)),
                        ('best_images', (1000, 900)), ('worst_images',
                                                       (1000, 900))):
        picture = cv2.imread(str(work_dir / f'{name}.png'))
        assert picture.shape[0] >= least[0] and picture.shape[1] >= least[1]
        assert picture.std() > 5, name
    # 1, 3 and 5 are red: one is found, one is shifted, one missed; of 2 and
    # 4, which are blue, the second one is taken for red
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 2], [0, 1, 0]]
    # 1 is found exactly, 2 nearly; in 3 to 5 nothing is right
    assert [Path(r.path).stem for r in best[:2]] == ['1', '2']
    assert {Path(r.path).stem for r in worst[:3]} == {'3', '4', '5'}
    assert Path(worst[3].path).stem == '2'
    assert len(best) == len(worst) == 4


class TwoImages:
    """A box of class 1 in each; the second is a crowd's."""

    metainfo = dict(classes=('a', '$b'))

    def __len__(self):
        return 2

    def get_data_info(self, i):
        box = dict(bbox=[0, 0, 10, 10], bbox_label=1, ignore_flag=i)
        return dict(img_id=7 + i, img_path=f'{i}.png', instances=[box])


@pytest.mark.parametrize('options, best, worst, row', [
    # in the second nothing need be found
    ({}, ['0.png', '1.png'], ['1.png', '0.png'], [0, 1, 0]),
    (dict(num_images=1), ['0.png'], ['1.png'], [0, 1, 0]),
    (dict(score_thr=0.5), ['1.png', '0.png'], ['0.png', '1.png'], [0, 0, 1]),
])
def test_what_the_figures_are_asked_for(options, best, worst, row,
                                        monkeypatch, tmp_path):
    """Of one image with a box of a score of 0.4, and one without."""
    asked = []
    for name in ('plot_precision', 'plot_confusion', 'plot_images'):
        monkeypatch.setattr(figures, name, lambda *args: asked.append(
            args) or SimpleNamespace(savefig=lambda path: None))
    monkeypatch.setattr(figures, 'is_training', lambda runner: True)
    runner = SimpleNamespace(
        val_loop=1, val_dataloader=SimpleNamespace(dataset=TwoImages()),
        work_dir=tmp_path, logger=logging.getLogger('figures'))
    found = InstanceData(
        bboxes=torch.tensor([[0., 0, 10, 9]]), labels=torch.tensor([1]),
        scores=torch.tensor([.4]))
    hook = figures.EvaluationFiguresHook(**options)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, outputs=[
        DetDataSample(metainfo=dict(img_id=7 + i), pred_instances=boxes)
        for i, boxes in ((1, found[:0]), (0, found))])
    hook.after_train(runner)
    (curves, names), (matrix, *_), *pictures = asked
    assert curves[:, 1] == pytest.approx(np.ones(101))
    assert names == ['a', r'\$b']  # no formula of Matplotlib
    assert matrix.tolist() == [[0, 0, 0], row, [0, 0, 0]]
    assert [[r.path for r in rows] for rows, *_ in pictures] == [best, worst]
    assert all(rest == [names, options.get('score_thr', .3)]
               for _, *rest in pictures)


def test_without_a_terminal_everything_is_as_it_was(trained):
    """The plain lines of MMEngine, to which nothing was added."""
    work_dir, *_ = trained
    log, = work_dir.glob('*/*.log')
    text = log.read_text()
    assert len(re.findall(r'Epoch\(train\) +\[[12]\]\[[123]/3\]', text)) == 6
    named = re.search(r'Figures of the last validation: (.+)/{(.+)}', text)
    assert Path(named[1]).samefile(work_dir) and all(
        (work_dir / f'{name}.png').is_file() for name in named[2].split(','))


def test_a_bad_loss_stops_before_anything_is_spoilt(coco_options, tmp_path):

    class Poison(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 4:
                next(runner.model.bbox_head.parameters()).data.fill_(np.nan)

    runner = detector(
        coco_options,
        tmp_path,
        dict(type='mmfasternet.NonFiniteLossHook'),
        max_epochs=3)
    runner.register_hook(Poison())
    saved = {}
    runner.register_hook(
        Snapshot(lambda: saved.update({
            path: path.read_bytes()
            for path in tmp_path.glob('*.pth')
        })))
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    message = str(error.value)
    assert 'epoch 2, iteration 2 of 3' in message and 'loss = nan' in message
    assert 'loss_cls = ' in message and 'learning rate: 0.00' in message
    assert len(re.findall(r'/train/[1-5]\.png', message)) == 2
    assert f'last good checkpoint: {tmp_path}/epoch_1.pth' in message
    assert saved and saved == {
        path: path.read_bytes()
        for path in tmp_path.glob('*.pth')
    }
    ema, = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    assert all(
        x.isfinite().all() for x in ema.ema_model.state_dict().values())


class Snapshot(Hook):
    """Calls something before each epoch."""

    def __init__(self, action):
        self.action = action

    def before_train_epoch(self, runner):
        self.action()


# ------------------------------------------------------------ a toy model
class Toy(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)
        with torch.no_grad():
            self.fc.weight.fill_(0.5)
            self.fc.bias.fill_(0)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.fc(torch.stack(inputs))
        if mode == 'predict':
            return [dict(x=x)]
        return dict(loss=(x - 1).square().mean())


class Weight(BaseMetric):
    """The weight that is validated."""

    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0]['x'].mean().item())

    def compute_metrics(self, results):
        return dict(weight=results[0])


class Calls(Hook):
    """Calls something at a certain moment."""

    def __init__(self, moment=None, iteration=None, action=None):
        self.moment, self.iteration, self.action = moment, iteration, action

    def _at(self, moment, runner):
        if (moment, runner.iter) == (self.moment, self.iteration):
            self.moment = None  # once
            self.action()

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self._at('train', runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None):
        self._at('val', runner)


def toy(work_dir, *hooks, epochs=4, iterations=None, images=None, **kwargs):
    """6 numbers in batches of 2; the schedule has every kind of step."""
    images = torch.arange(1., 7) / 6 if images is None else images

    def loader(sampler):
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type=sampler, shuffle=False),
            dataset=[dict(inputs=x[None]) for x in images])

    if iterations is None:
        train_cfg = dict(by_epoch=True, max_epochs=epochs)
        sampler, end = 'DefaultSampler', 3 * epochs
    else:
        train_cfg = dict(by_epoch=False, max_iters=iterations, val_interval=4)
        sampler, end = 'InfiniteSampler', iterations
    runner = Runner(
        Toy(),
        str(work_dir),
        train_dataloader=loader(sampler),
        val_dataloader=loader('DefaultSampler'),
        train_cfg=train_cfg,
        val_cfg=dict(),
        val_evaluator=Evaluator([Weight()]),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            paramwise_cfg=dict(bias_lr_mult=2)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False),
            dict(type='CosineAnnealingLR', T_max=end, end=end, by_epoch=False),
            dict(
                type='MultiStepLR',
                milestones=[2],
                gamma=0.5,
                by_epoch=iterations is None)
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                interval=1 if iterations is None else 100,
                by_epoch=iterations is None)),
        custom_hooks=[dict(type='EMAHook', momentum=0.3), *hooks],
        log_processor=dict(by_epoch=iterations is None),
        randomness=dict(seed=0),
        experiment_name=f'{work_dir.name}_{time.monotonic_ns()}',
        default_scope='mmengine',
        **kwargs)
    return runner


class Clock(Hook):
    """Ten seconds for an iteration of training, one for one of validation."""

    priority = 'VERY_HIGH'  # before it is looked at
    seconds = 1000.

    def monotonic(self):
        return self.seconds

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.seconds += 10

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None):
        self.seconds += 1


class Shown(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


def lines_of_bar(monkeypatch, work_dir, interval=0., columns=200, **kwargs):
    """What a training run of the toy shows, and the runner."""
    clock, shown = Clock(), Shown()
    monkeypatch.setattr(sys, 'stdout', shown)
    monkeypatch.setattr(bar, 'time', clock)
    monkeypatch.setattr(bar, 'peak_memory', lambda: 3 * 2**29)
    monkeypatch.setattr(bar, 'get_world_size', lambda: 4)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', str(columns))
    runner = toy(work_dir, clock, bar.ProgressBarHook(interval), **kwargs)
    runner.train()
    monkeypatch.undo()
    runner.shown = shown.getvalue()
    text = re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', runner.shown)
    return [' '.join(line.split()) for line in re.split('[\r\n]+', text)
            ], runner


def drawn(lines, title):
    """The bars of a title: place, time left; and the numbers below each."""
    found = []
    for line, below in zip(lines, lines[1:]):
        match = re.match(rf'{title} [━╸╺ ]+ (\d+/\d+) ?(.*)', line)
        if match and match.groups() not in [f[:2] for f in found]:
            found.append((*match.groups(), below))
    return found


def test_the_numbers_of_the_bar(monkeypatch, tmp_path):
    """Twelve iterations of ten seconds, four validations of three; each of
    four processes trains on two images at a time."""
    lines, runner = lines_of_bar(monkeypatch, tmp_path)
    scalars = runner.message_hub.log_scalars
    losses, lrs, times = (scalars[f'train/{name}'].data[0]
                          for name in ('loss', 'lr', 'time'))
    spent = 0
    for epoch in range(1, 5):
        bars = drawn(lines, f'epoch {epoch}/4')
        assert [place for place, *_ in bars] == ['1/3', '2/3', '3/3']
        for _, left, numbers in bars:
            done = 3 * epoch - 2 + int(_[0]) - 1
            spent += 10
            # the time so far for each iteration, times those that are left
            seconds = int(spent / done * (12 - done))
            assert left == f'0:{seconds // 60:02}:{seconds % 60:02} left'
            first = max(0, done - 10)  # MMEngine's window
            assert numbers == (
                f'{8 / times[first:done].mean():.1f} images/s 1.50 GiB '
                f'lr {lrs[done - 1]:.3g} loss '
                f'{losses[first:done].mean():.4f}')
        mean = losses[3 * epoch - 3:3 * epoch].mean()
        assert f'epoch {epoch}/4 loss {mean:.4f}' in lines
        # its numbers in no colours
        assert f'epoch {epoch}/4  loss {mean:.4f}' in runner.shown
        spent += 3
    places = [place for place, *_ in drawn(lines, 'validation')]
    assert places == ['1/3', '2/3', '3/3']


def test_the_bar_is_drawn_when_it_is_due_and_at_the_end(monkeypatch,
                                                        tmp_path):
    lines, _ = lines_of_bar(monkeypatch, tmp_path, interval=20)
    assert [x[0] for x in drawn(lines, 'epoch 2/4')] == ['2/3', '3/3']
    lines, _ = lines_of_bar(monkeypatch, tmp_path, iterations=6)
    assert [x[0] for x in drawn(lines, 'training')] == [
        f'{i}/6' for i in range(1, 7)]
    assert not any(line.startswith('epoch') for line in lines)


def test_numbers_are_cut_at_the_edge_of_the_terminal(monkeypatch, tmp_path):
    """A second line would stay when the bar is drawn again."""
    lines, _ = lines_of_bar(monkeypatch, tmp_path, columns=30, iterations=2)
    numbers = [line for line in lines if 'images/s' in line]
    assert numbers and all(
        line[-1] == '…' and len(line) <= 30 for line in numbers)


@pytest.mark.parametrize('iterations, seconds', [
    (None, [30] * 4), (10, [40, 40, 20])])
def test_the_time_of_a_row_is_that_of_its_training(iterations, seconds,
                                                   monkeypatch, tmp_path):
    """Ten seconds for two images of each of four processes, without those of
    the validation."""
    clock = Clock()
    monkeypatch.setattr(results_hook, 'time', clock)
    monkeypatch.setattr(results_hook, 'get_world_size', lambda: 4)
    toy(tmp_path, clock, ResultsHook(), iterations=iterations).train()
    rows = read_csv(tmp_path)
    assert [float(row['seconds']) for row in rows] == seconds
    assert [float(row['images/s']) for row in rows] == [0.8] * len(rows)


def ctrl_c_pressed(times=1):
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def load(path):
    return torch.load(path, weights_only=False)


def test_results_after_a_resume(tmp_path):
    begun = []
    toy(tmp_path, ResultsHook(), Calls(
        'val', 3, lambda: begun.extend(read_csv(tmp_path)))).train()
    first = read_csv(tmp_path)
    # an epoch is on disk while it is validated
    assert [dict(row, weight=first[0]['weight']) for row in begun] == first[:1]
    # what is trained again is written again
    path = tmp_path / 'results.csv'
    path.write_text(path.read_text().replace(first[2]['seconds'], '12345'))
    toy(tmp_path, ResultsHook(), resume=True,
        load_from=str(tmp_path / 'epoch_2.pth')).train()
    rows = read_csv(tmp_path)
    assert [r['epoch'] for r in rows] == ['1', '2', '3', '4']
    assert rows[:2] == first[:2]
    assert float(rows[2]['seconds']) < 12345
    assert [r['weight'] for r in rows] == [r['weight'] for r in first]
    # a new training in the same folder begins a new table
    toy(tmp_path, ResultsHook(), epochs=1).train()
    assert [r['epoch'] for r in read_csv(tmp_path)] == ['1']
    assert not list(tmp_path.glob('*.part'))


def test_results_without_epochs(tmp_path):
    toy(tmp_path, ResultsHook(), iterations=10).train()
    rows = read_csv(tmp_path)
    assert [(r['epoch'], r['iteration']) for r in rows] == [('', '4'),
                                                           ('', '8'),
                                                           ('', '10')]
    assert all(r['loss'] and r['weight'] for r in rows)
    assert (tmp_path / 'results.png').is_file()


@pytest.mark.parametrize('moment, iteration', [('train', 5), ('val', 6)])
def test_ctrl_c_between_epochs_repeats_nothing(moment, iteration, tmp_path,
                                               capsys):
    """In the last iteration of epoch 2, or in the validation after it."""
    plain = toy(tmp_path / 'plain')
    plain.train()
    with pytest.raises(SystemExit):
        toy(tmp_path, Calls(moment, iteration, ctrl_c_pressed),
            InterruptHook()).train()
    assert 'again' not in capsys.readouterr().out
    saved, whole = (
        load(tmp_path / f'{name}.pth') for name in ('interrupted', 'epoch_2'))
    assert saved['meta']['epoch'] == 2 and saved['meta']['iter'] == 6
    # averaged and raw weights are each in their place
    for key in 'state_dict', 'ema_state_dict':
        for name, value in whole[key].items():
            assert torch.equal(saved[key][name], value), (key, name)
    runner = toy(tmp_path, resume=True)
    runner.train()
    assert runner.iter == 12
    assert torch.equal(runner.model.fc.weight, plain.model.fc.weight)


@pytest.mark.parametrize('moment, iteration', [('train', 5), ('val', 4)])
def test_ctrl_c_without_epochs_repeats_nothing(moment, iteration, tmp_path):
    plain = toy(tmp_path / 'plain', iterations=10)
    plain.train()
    with pytest.raises(SystemExit):
        toy(tmp_path, Calls(moment, iteration, ctrl_c_pressed),
            InterruptHook(), iterations=10).train()
    runner = toy(tmp_path, iterations=10, resume=True)
    runner.train()
    assert runner.iter == 10
    assert torch.equal(runner.model.fc.weight, plain.model.fc.weight)


@pytest.mark.parametrize('moment, iteration', [('train', 11), ('val', 12)])
def test_ctrl_c_at_the_end_lets_it_end(moment, iteration, tmp_path):
    runner = toy(tmp_path, Calls(moment, iteration, ctrl_c_pressed),
                 InterruptHook(), ResultsHook())
    runner.train()
    assert not (tmp_path / 'interrupted.pth').exists()
    assert read_csv(tmp_path)[-1]['weight']


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    runner = toy(tmp_path, Calls('train', 4, lambda: ctrl_c_pressed(2)),
                 InterruptHook())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.iter == 4
    assert not (tmp_path / 'interrupted.pth').exists()
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_a_bad_loss_with_nothing_saved(tmp_path):
    images = torch.tensor([1, 1, 1, 1, np.inf, 1])
    # what an earlier training left does not count
    (tmp_path / 'last_checkpoint').write_text('old.pth')
    with pytest.raises(NonFiniteLossError, match='loss = inf') as error:
        toy(tmp_path, NonFiniteLossHook(), images=images).train()
    assert 'last good checkpoint: none was saved' in str(error.value)
    assert 'paths are not in this batch' in str(error.value)
    assert not list(tmp_path.glob('*.pth'))


def test_a_bad_loss_names_its_images_and_the_learning_rate(tmp_path):
    """Also those of MMDetection's batches, which are lists of samples."""
    runner = toy(tmp_path)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.param_groups[0]['lr'] = 0.0125
    batch = dict(data_samples=[
        DetDataSample(metainfo=dict(img_path=f'{name}.jpg'))
        for name in 'ab'])
    hook = NonFiniteLossHook()
    hook.before_train(runner)
    losses = dict(loss=torch.tensor(1e5), loss_a=torch.tensor(2.5), acc=1)
    hook.after_train_iter(runner, 1, batch, losses)
    with pytest.raises(NonFiniteLossError) as error:
        hook.after_train_iter(runner, 1, batch, dict(
            losses, loss=torch.tensor(-math.inf)))
    for words in ('at epoch 1, iteration 2 of 3: loss = -inf, loss_a = 2.5\n',
                  'learning rate: 0.0125\n', ': a.jpg, b.jpg\n'):
        assert words in str(error.value)


def test_ruined_weights_are_not_saved(tmp_path):
    """The loss was finite, its gradient was not: epoch 2 ends with it."""
    runner = toy(tmp_path, NonFiniteLossHook())
    runner.register_hook(
        Calls('train', 5, lambda: runner.model.fc.weight.data.fill_(np.nan)))
    with pytest.raises(NonFiniteLossError, match='fc.weight is not finite '):
        runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert not (tmp_path / 'epoch_2.pth').exists()


# -------------------------------------------------------------- a process
def command(work_dir, config, coco_options):
    options = dict(
        coco_options,
        val_interval=1,
        max_epochs=4,
        log_interval=1,
        train_num_workers=1,
        train_batch_size_per_gpu=1)
    return [
        sys.executable, 'tools/train.py',
        str(config), '--work-dir',
        str(work_dir), '--cfg-options'
    ] + [f'{key}={value}'.replace(' ', '') for key, value in options.items()]


def in_terminal(arguments, until, keys):
    """Run in a pseudo terminal; press keys once a text is there."""
    terminal, end = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', 40, 120, 0, 0))
    before = termios.tcgetattr(end)

    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        arguments,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=own_terminal,
        env=dict(os.environ, TERM='xterm-256color'))
    output, deadline = b'', time.monotonic() + 120
    try:
        while True:
            assert time.monotonic() < deadline, output.decode()
            ended = process.poll() is not None
            if select.select([terminal], [], [], 0 if ended else 0.1)[0]:
                output += os.read(terminal, 65536)
            elif ended:
                break
            if keys and until in output:
                os.write(terminal, keys)
                keys = b''
    finally:
        process.kill()
        process.wait()
    assert termios.tcgetattr(end) == before
    os.close(end)
    os.close(terminal)
    return process.returncode, output.decode()


def test_ctrl_c_in_a_terminal_and_resume_without_one(coco_options, tmp_path):
    config = tmp_path / 'mine.py'
    base = Path('configs/yolov8_fasternet_n.py').resolve()
    hooks = [
        dict(hook) for hook in load_config(str(base)).custom_hooks
        if 'Switch' not in hook['type']
    ]
    config.write_text(f'''
_base_ = {str(base)!r}
custom_hooks = {hooks!r}
''')
    arguments = command(tmp_path / 'run', config, coco_options)
    status, output = in_terminal(arguments, b'epoch 2/4', b'\x03')
    assert status == 130, output
    # a bar, its numbers, and none of the lines that it replaces
    assert '━' in output and ' left' in output and '1/5' in output
    assert re.search(r'[\d.]+ images/s  [\d.]+ GiB  lr [\d.e-]+  loss [\d.]+',
                     output)
    assert 'Epoch(train)' not in output and 'Exp name' not in output
    assert re.search(r'\[1\]\[1/1\] +coco/bbox_mAP: ', output)
    assert 'Traceback' not in output
    # nor what onedl-mmdetection says when it is imported
    assert 'OneDL' not in output and 'coco_eval' not in output
    # the cursor is there, at the begin of a line that is erased
    assert output.rfind('\x1b[?25h') > output.rfind('\x1b[?25l')
    assert re.search(r'[\r\n](\x1b\[2K|\x1b\[1A|\x1b\[\?25h)*$', output)
    epoch = int(
        re.search(r'interrupted at (?:the end of |the validation after )?'
                  r'epoch (\d)', output)[1])
    assert 2 <= epoch < 4
    meta = load(tmp_path / 'run/interrupted.pth')['meta']
    assert meta['epoch'] in (epoch - 1, epoch)
    log, = (tmp_path / 'run').glob('*/*.log')
    log = log.read_text()
    resume = re.search('go on with: python (tools/train.py .* --resume)\n',
                       log)[1]
    # unbroken, to be copied from the terminal too
    assert f'go on with: python {resume}' in output

    done = run_script(*shlex.split(resume))
    text = done.stdout + done.stderr
    assert f'resumed epoch: {meta["epoch"]}, iter: {meta["iter"]}' in text
    # every iteration once, in the first part or in the second
    assert re.findall(r'Epoch\(train\) +\[(\d)\]\[(\d)/5\]', log + text) == [
        (str(epoch), str(i)) for epoch in range(1, 5) for i in range(1, 6)
    ]
    assert not re.search('[\x00-\x08\x0b-\x1f]', text)
    rows = read_csv(tmp_path / 'run')
    assert [(r['epoch'], r['iteration']) for r in rows] == [
        (str(i), str(5 * i)) for i in range(1, 5)
    ]
    assert (tmp_path / 'run/pr_curves.png').is_file()
