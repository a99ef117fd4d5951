# SPDX-License-Identifier: Apache-2.0
"""What we know of MMEngine's runner and samplers; fails where it changes."""
from contextlib import contextmanager

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmfasternet.compat import mmengine_runner as compat


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.fc(torch.stack(inputs))
        return [dict()] if mode == 'predict' else dict(loss=x.square().mean())


class Nothing(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(n=len(results))


class Calls(Hook):
    """Calls a function at each moment, with the runner and its name."""

    def __init__(self, **actions):
        for name, action in actions.items():
            setattr(self, name, lambda runner, *args, action=action, **kwargs:
                    action(runner))


def made(work_dir, hook=None, counts=1, **train_cfg):
    by_epoch = 'max_iters' not in train_cfg

    def loader(sampler):
        return dict(
            batch_size=2, num_workers=0,
            sampler=dict(type=sampler, shuffle=False),
            dataset=[dict(inputs=torch.ones(1) * i) for i in range(6)])

    return Runner(
        Model(),
        str(work_dir),
        train_dataloader=loader(
            'DefaultSampler' if by_epoch else 'InfiniteSampler'),
        val_dataloader=loader('DefaultSampler'),
        val_cfg=dict(),
        val_evaluator=Evaluator([Nothing()]),
        train_cfg=dict(by_epoch=by_epoch, **train_cfg),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[hook or Hook()],
        log_processor=dict(by_epoch=by_epoch),
        experiment_name=f'{work_dir.name}_{id(hook)}',
        default_scope='mmengine')


@pytest.mark.parametrize('wrong,part', [
    (dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr='x'))),
     'optim_wrapper'),
    (dict(param_scheduler=dict(type='LinearLR', start_factor=2.)), ''),
    (dict(model=torch.nn.Linear(1, 1)), None),
])
def test_what_could_not_be_built(wrong, part, tmp_path):
    cfg = dict(
        model=Model(), work_dir=str(tmp_path),
        train_dataloader=DataLoader([dict(inputs=torch.ones(1))]),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=str(tmp_path), default_scope='mmengine')
    with pytest.raises(Exception) as error:
        Runner(**cfg | wrong).train()
    assert compat.what_was_built(error.value) == part


def test_training_is_told_from_validation(tmp_path):
    seen = []
    hook = Calls(before_val_epoch=lambda r: seen.append(compat.is_training(r)))
    runner = made(tmp_path, hook, max_epochs=1)
    runner.val()
    assert not compat.is_training(runner)
    runner.train()
    assert seen == [False, True]


def test_the_loop_runs_inside(tmp_path):
    seen = []

    @contextmanager
    def note():
        seen.append('in')
        try:
            yield
        finally:
            seen.append('out')

    def stop(runner):
        seen.append('train')
        raise KeyboardInterrupt

    hook = Calls(
        before_run=lambda r: compat.train_inside(r, note()), before_train=stop)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, hook, max_epochs=1).train()
    assert seen == ['in', 'train', 'out']


def test_the_runner_takes_another_checkpoint(tmp_path):
    first = made(tmp_path / 'first', max_epochs=1)
    first.train()
    first.save_checkpoint(str(tmp_path), 'x.pth')
    path = str(tmp_path / 'x.pth')
    seen = []
    hook = Calls(
        before_run=lambda r: compat.set_resume_request(r, True, path),
        before_train=lambda r: seen.append((r.epoch, compat.resume_request(
            r))))
    runner = made(tmp_path / 'second', hook, max_epochs=3)
    assert compat.resume_request(runner) == (False, None)
    runner.train()
    assert seen == [(2, (True, path))]


@pytest.mark.parametrize('counts', [1, 3])
def test_accumulated_iterations(counts, tmp_path):
    runner = made(tmp_path, counts=counts, max_epochs=1)
    runner.train()
    assert compat.accumulative_counts(runner) == counts


def test_a_validation_is_due_when_the_loop_does_one(tmp_path):
    """Every 2 epochs from 2 on, each from 5 on, and after the last."""
    due, done = [], []
    hook = Calls(
        before_train_epoch=lambda r: compat.is_validation_due(r) and due.
        append(r.epoch),
        after_train=lambda r: compat.is_validation_due(r) and due.append(
            r.epoch),
        before_val_epoch=lambda r: done.append(r.epoch))
    made(tmp_path, hook, max_epochs=7, val_interval=2, val_begin=2,
         dynamic_intervals=[(5, 1)]).train()
    assert due == done == [2, 4, 5, 6, 7]


def test_an_epoch_and_a_run_begin_later(tmp_path):
    numbers = []

    class Note(Hook):

        def before_train(self, runner):
            compat.begin_within_epoch(runner, lambda: 10)

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            numbers.append(batch_idx)

    made(tmp_path / 'epochs', Note(), max_epochs=1).train()
    assert numbers == [10, 11, 12]

    class Later(Note):

        def before_train(self, runner):
            runner.train_loop._iter = 2
            compat.begin_at_iteration(runner, 2)

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            numbers.append((runner.iter, data_batch['inputs'][0].item()))

    numbers.clear()
    made(tmp_path / 'iterations', Later(), max_iters=4, val_interval=9).train()
    # nothing was skipped of the data
    assert numbers == [(2, 0), (3, 2)]


def test_a_loader_takes_other_batches_and_a_sampler_begins_anew():
    sampler = InfiniteSampler(range(4), shuffle=False)
    loader = DataLoader(range(4), batch_size=2, sampler=sampler)
    assert next(iter(loader)).tolist() == [0, 1]
    compat.restart_sampler(sampler)
    assert next(iter(loader)).tolist() == [0, 1]
    compat.replace_batches(loader, [[3], [2]])
    assert [batch.tolist() for batch in loader] == [[3], [2]]
