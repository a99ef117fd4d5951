# SPDX-License-Identifier: Apache-2.0
"""However a training run ends, the resumed one ends as if it had not."""
import os
import random
import re
import signal
import time

import numpy as np
import pytest
import torch
from conftest import assert_equal, read_csv
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmfasternet import cli
from mmfasternet.checkpoint import CheckpointError
from mmfasternet.engine import InterruptHook, ResultsHook, ResumeHook
from mmfasternet.engine.seeded_batches import SeededBatches

IMAGES, EPOCHS, ITERATIONS = 11, 3, 4  # of 3 images, the last of 2
LAST = EPOCHS * ITERATIONS
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def signals():
    """Both work, even if the tests run in the background of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGINT, previous)


class Noisy(torch.utils.data.Dataset):
    """Images to which each library for random numbers adds something."""

    metainfo = dict(classes=('a', ))

    def __init__(self, is_noisy):
        self.is_noisy = is_noisy

    def __len__(self):
        return IMAGES

    def end(self, index):
        """What happens to the process at an image; nothing."""

    def __getitem__(self, index):
        self.end(index)
        noise = random.random() + np.random.rand() + torch.rand(1)
        noise = noise * self.is_noisy
        return dict(inputs=(index + noise) / 10, data_samples=index)


class Model(BaseModel):
    """Batch norm, dropout, and a loss that follows from both."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(1, 8), torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.net(torch.stack(inputs).view(-1, 1))
        if mode == 'predict':
            return [dict(x=x)]
        noise = torch.rand(1) * random.random() * np.random.rand()
        return dict(loss=(x - 1).square().mean() + noise.float() * x.mean())


class Mean(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0]['x'].sum().item())

    def compute_metrics(self, results):
        return dict(mean_acc=float(np.sum(results)))


class Record(Hook):
    """What was trained on and validated; does something at a moment."""

    priority = 'VERY_LOW'

    def __init__(self, at=None, action=None):
        self.at, self.action, self.seen, self.metrics = at, action, [], []

    def _do(self, *moment):
        if moment == self.at:
            self.action()

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.seen.append((runner.epoch, batch_idx, runner.iter,
                          [x.item() for x in data_batch['inputs']],
                          outputs['loss'].item()))
        self._do('train', runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None):
        self._do('val', runner.iter)

    def after_val_epoch(self, runner, metrics):
        self.metrics.append((runner.iter, metrics))


class Killed(BaseException):
    """Nothing handles it, as nothing handles SIGKILL."""


def kill():
    raise Killed


def train(work_dir, *hooks, workers=0, method='fork', by_epoch=True, counts=1,
          seed=0, resume=False, **kwargs):
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'

    def loader(sampler, shuffle):
        return dict(
            batch_size=3,
            sampler=dict(type=sampler, shuffle=shuffle),
            dataset=Noisy(shuffle))

    record = next((h for h in hooks if isinstance(h, Record)), Record())
    torch.manual_seed(0)
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(
            loader(sampler, shuffle=True),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context=method if workers else None),
        val_dataloader=dict(
            loader('DefaultSampler', shuffle=False), num_workers=0),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS, val_interval=1)
        if by_epoch else dict(
            by_epoch=False, max_iters=LAST, val_interval=ITERATIONS),
        val_cfg=dict(),
        val_evaluator=Evaluator([Mean()]),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.1),
            accumulative_counts=counts),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=6, by_epoch=False),
            dict(type='MultiStepLR', milestones=[2], by_epoch=by_epoch)
        ],
        default_hooks=dict(
            checkpoint=kwargs.pop(
                'checkpoint',
                dict(
                    type='CheckpointHook',
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 3,
                    max_keep_ckpts=2,
                    save_best='mean_acc'))),
        custom_hooks=[
            dict(type='EMAHook', momentum=0.3, update_buffers=True), record,
            *[h for h in hooks if h is not record],
            ResumeHook(),
            InterruptHook()
        ],
        log_processor=dict(by_epoch=by_epoch),
        randomness=dict(seed=seed),
        resume=resume,
        experiment_name=f'{work_dir.name}_{time.monotonic_ns()}',
        default_scope='mmengine',
        **kwargs)
    try:
        runner.train()
    except (Killed, SystemExit) as end:
        record.end = end
    finally:
        # garbage collection would wait for the workers
        loader = getattr(runner._train_loop, 'dataloader', None)
        if getattr(loader, '_iterator', None) is not None:
            loader._iterator._shutdown_workers()
    return runner, record


def state(runner):
    """Everything that a training run has learnt and will need."""
    ema, = (h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    hub = runner.message_hub
    return dict(
        model=runner.model.state_dict(),
        ema=ema.ema_model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedulers=[s.state_dict() for s in runner.param_schedulers],
        place=(runner.epoch, runner.iter),
        best=hub.get_info('best_score'),
        losses=hub.get_scalar('train/loss').data[0].tolist())


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Trainings that nobody interrupts."""
    return {
        key: train(tmp_path_factory.mktemp('plain'), by_epoch=key[0],
                   counts=key[1])
        for key in [(True, 1), (True, 2), (False, 1)]
    }


def in_one_piece(first, second):
    """What two training runs have seen, the second from where it went on."""
    begin = second.seen[0][2] if second.seen else LAST
    return [x for x in first.seen if x[2] < begin] + second.seen


def test_it_is_random_where_nobody_interrupts(plain, tmp_path):
    """Each library, image, epoch and iteration has its own numbers."""
    runner, record = plain[True, 1]
    values = [x for *_, inputs, _ in record.seen for x in inputs]
    assert len(set(values)) == len(values) == IMAGES * EPOCHS
    assert len({loss for *_, loss in record.seen}) == LAST
    _, same = train(tmp_path / 'same')
    assert same.seen == record.seen
    _, other = train(tmp_path / 'other', seed=1)
    assert not {loss for *_, loss in other.seen
                } & {loss for *_, loss in record.seen}


@pytest.mark.parametrize('iteration, number, by_epoch', [
    (0, signal.SIGTERM, True),
    (3, signal.SIGINT, True),  # the last one of an epoch
    (6, signal.SIGTERM, True),
    (10, signal.SIGINT, True),
    (3, signal.SIGINT, False),
    (6, signal.SIGTERM, False),
])
def test_after_a_signal_nothing_is_lost(iteration, number, by_epoch, plain,
                                        tmp_path):
    first = Record(('train', iteration),
                   lambda: signal.raise_signal(number))
    runner, _ = train(tmp_path, first, by_epoch=by_epoch)
    assert first.end.code == 128 + number
    assert len(first.seen) == iteration + 1
    assert (tmp_path / 'last_checkpoint').read_text() == str(
        tmp_path / 'interrupted.pth')
    runner, second = train(tmp_path, by_epoch=by_epoch, resume=True)
    expected, record = plain[by_epoch, 1]
    # nothing is trained twice or left out
    assert first.seen + second.seen == record.seen
    assert first.metrics + second.metrics == record.metrics
    assert_equal(state(runner), state(expected))


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('moment, iteration', [
    *(('train', i) for i in (2, 3, 7, 9, 11)),
    *(('val', i) for i in (4, 8, 12))
])
def test_after_a_kill_it_goes_on_from_the_last_checkpoint(
        moment, iteration, by_epoch, plain, tmp_path):
    """Those of iteration 3, 6, 9 lie within an epoch."""
    first, second = Record((moment, iteration), kill), Record()
    checkpoint = dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=3,
        max_keep_ckpts=1,
        save_best='mean_acc')
    train(tmp_path, first, by_epoch=by_epoch, checkpoint=checkpoint)
    assert isinstance(first.end, Killed)
    runner, _ = train(tmp_path, second, by_epoch=by_epoch, resume=True,
                      checkpoint=checkpoint)
    expected, record = plain[by_epoch, 1]
    assert in_one_piece(first, second) == record.seen
    assert_equal(state(runner), state(expected))
    # no validation is missing, whenever it was killed
    assert dict(first.metrics + second.metrics) == dict(record.metrics)
    best = runner.message_hub.get_info('best_ckpt')
    assert list(tmp_path.glob('best_*')) == [tmp_path / best]


@pytest.mark.parametrize('workers', [(0, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_number_of_workers_changes_nothing(workers, by_epoch, plain,
                                               tmp_path):
    first = Record(('train', 5), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path, first, by_epoch=by_epoch, workers=workers[0])
    runner, second = train(tmp_path, by_epoch=by_epoch, workers=workers[1],
                           resume=True)
    expected, record = plain[by_epoch, 1]
    assert first.seen + second.seen == record.seen
    assert_equal(state(runner), state(expected))


@pytest.mark.slow
def test_spawned_workers_do_the_same(plain, tmp_path):
    """They get the data set and the hooks' functions by pickle."""
    first = Record(('train', 5), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path, first, workers=1, method='spawn')
    runner, second = train(tmp_path, workers=1, method='spawn', resume=True)
    expected, record = plain[True, 1]
    assert first.seen + second.seen == record.seen
    assert_equal(state(runner), state(expected))


@pytest.mark.parametrize('end, words', [
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 'killed by signal: Killed'),
    (lambda: os._exit(3), 'exited unexpectedly with exit code 3'),
    (lambda: 1 / 0, 'ZeroDivisionError'),
])
def test_a_worker_that_dies_is_reported_with_its_cause(end, words, tmp_path,
                                                       monkeypatch):
    # at its first image: later, tensors may be on their way
    monkeypatch.setattr(Noisy, 'end', lambda self, index: end())
    with pytest.raises((RuntimeError, ZeroDivisionError)) as error:
        train(tmp_path, workers=1)
    assert words in f'{error.getrepr(chain=True)}'


def test_a_worker_outlives_what_the_group_is_sent(plain, tmp_path,
                                                  monkeypatch):
    """Slurm and torchrun send SIGTERM to the workers, too."""
    monkeypatch.setattr(
        Noisy, 'end', lambda self, index: index == 7 and torch.utils.data.
        get_worker_info() and os.system(f'kill -TERM {os.getpid()}'))
    # and begins with what MMEngine, or a user, wants of it
    monkeypatch.setattr(
        'mmengine.runner.runner.default_worker_init_fn', lambda number, **_: (
            tmp_path / f'begun_{number}').touch())
    runner, record = train(tmp_path, workers=1)
    assert record.seen == plain[True, 1][1].seen
    assert (tmp_path / 'begun_0').exists()


def test_batches_of_images_of_one_shape_go_on_too():
    """The sampler of MMDetection's two-stage detectors."""
    sizes = [(9, 10), (11, 10)] * 5 + [(9, 10)]

    class Sized(torch.utils.data.Dataset):

        def __len__(self):
            return len(sizes)

        def get_data_info(self, index):
            return dict(zip(('width', 'height'), sizes[index]))

        def __getitem__(self, index):
            return index, random.random()

    def loaded(begin):
        sampler = DefaultSampler(Sized(), seed=3)
        loader = torch.utils.data.DataLoader(
            sampler.dataset,
            batch_sampler=AspectRatioBatchSampler(sampler, 2),
            collate_fn=list)
        batches = SeededBatches(loader, seed=0)
        batches.skip(begin)
        return list(loader)

    whole = loaded(0)
    assert sorted(i for batch in whole for i, _ in batch) == list(range(11))
    for batch in whole:
        assert len({sizes[i] for i, _ in batch}) == 1 or batch is whole[-1]
    assert loaded(4) == whole[4:]


def test_what_has_no_transforms_needs_no_seeds():
    """A list, of which PyTorch asks each item by its index."""
    loader = torch.utils.data.DataLoader(
        list('abcdef'), sampler=DefaultSampler('abcdef', shuffle=False),
        batch_size=2, collate_fn=''.join)
    SeededBatches(loader, seed=0).skip(1)
    assert list(loader) == ['cd', 'ef']


def test_accumulated_gradients_come_to_their_end_first(plain, tmp_path):
    first = Record(('train', 4), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path, first, counts=2)
    assert len(first.seen) == 6
    runner, second = train(tmp_path, counts=2, resume=True)
    expected, record = plain[True, 2]
    assert first.seen + second.seen == record.seen
    assert_equal(state(runner), state(expected))


def test_without_a_seed_the_checkpoint_has_it(tmp_path):
    """The data order is that of the run, not of the process."""
    first = Record(('train', 5), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path, first, seed=None)
    _, second = train(tmp_path, seed=None, resume=True)
    interrupted = torch.load(tmp_path / 'interrupted.pth', weights_only=False)
    last = torch.load(tmp_path / f'epoch_{EPOCHS}.pth', weights_only=False)
    for key in 'seed', 'resume':
        assert interrupted['meta'][key] is not None
    seed = interrupted['meta']['seed']
    assert seed == last['meta']['seed']
    # it is that of a training run in one piece
    _, whole = train(tmp_path / 'whole', seed=seed)
    assert first.seen + second.seen == whole.seen
    assert interrupted['meta']['resume']['seed'] == last['meta']['resume'][
        'seed']


def test_another_batch_size_goes_on_after_the_same_images(tmp_path, capsys):
    first = Record(('train', 5), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path, first)  # after 6 of the 11 images of epoch 2
    state = torch.load(tmp_path / 'interrupted.pth', weights_only=False)
    state['meta']['resume'].update(
        images_per_iteration=6, batches=1, iterations_per_epoch=2)
    torch.save(state, tmp_path / 'interrupted.pth')
    _, second = train(tmp_path, resume=True)
    assert second.seen[0][:2] == (1, 2)
    assert 'goes on after 6 images, but it is another training run' in \
        capsys.readouterr().out


def test_results_of_an_epoch_in_two_parts(tmp_path):
    train(tmp_path / 'plain', ResultsHook())
    first = Record(('train', 5), lambda: signal.raise_signal(signal.SIGTERM))
    train(tmp_path / 'parts', first, ResultsHook())
    train(tmp_path / 'parts', ResultsHook(), resume=True)
    rows = [[{
        name: value
        for name, value in row.items()
        if name not in ('seconds', 'images/s', 'memory')
    } for row in read_csv(tmp_path / name)] for name in ('plain', 'parts')]
    assert rows[0] == rows[1] and len(rows[0]) == EPOCHS


def test_results_in_a_folder_without_those_of_the_first_part(tmp_path):
    train(tmp_path, Record(('val', 2 * ITERATIONS), kill), ResultsHook())
    (tmp_path / 'results.csv').unlink()
    train(tmp_path, ResultsHook(), resume=True)
    header, *rows = (tmp_path / 'results.csv').read_text().splitlines()
    column = header.split(',').index('mean_acc')
    rows = [row.split(',') for row in rows]
    assert [row[0] for row in rows] == ['2', '3']
    assert all(row[column] for row in rows)


# ------------------------------------------------------ damaged checkpoints
def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(path):
    """One bit of the weights; PyTorch reads that without an error."""
    data = bytearray(path.read_bytes())
    with torch.serialization._open_zipfile_reader(str(path)) as reader:
        largest = max((n for n in reader.get_all_records() if '/data/' in
                       f'/{n}'), key=lambda n: len(reader.get_record(n)))
        offset = reader.get_record_offset(largest)
    data[offset] ^= 1
    path.write_bytes(bytes(data))
    torch.load(path, weights_only=False)


@pytest.mark.parametrize('damage, words', [
    (cut, 'truncated or damaged'),
    (flip, 'the checksum of .* is wrong'),
    (lambda path: path.write_bytes(b''), 'it is empty'),
    (lambda path: path.unlink(), ''),
])
def test_a_damaged_checkpoint_is_passed_over(damage, words, plain, tmp_path,
                                             capsys):
    train(tmp_path, Record(('train', 9), kill))
    damage(tmp_path / 'epoch_2.pth')
    runner, _ = train(tmp_path, resume=True)
    output = capsys.readouterr().out
    assert re.search(f'WARNING.*going on from {tmp_path}/epoch_1.pth instead '
                     f'of the last checkpoint\n.*epoch_2.pth.*{words}',
                     output)
    assert_equal(state(runner), state(plain[True, 1][0]))


@pytest.mark.parametrize('content', ['', '\0\0\0\0', 'elsewhere/epoch_9.pth'])
def test_a_damaged_note_is_passed_over(content, plain, tmp_path, capsys):
    train(tmp_path, Record(('train', 9), kill))
    (tmp_path / 'last_checkpoint').write_text(content)
    runner, second = train(tmp_path, resume=True)
    assert f'going on from {tmp_path}/epoch_2.pth' in capsys.readouterr().out
    assert second.seen[0][0] == 2
    assert_equal(state(runner), state(plain[True, 1][0]))


def test_with_no_whole_checkpoint_it_does_not_begin_anew(tmp_path):
    train(tmp_path, Record(('train', 9), kill))
    for path in tmp_path.glob('*.pth'):
        cut(path)
    with pytest.raises(CheckpointError, match='no checkpoint in .* is whole'):
        train(tmp_path, resume=True)


@pytest.mark.parametrize('change, words', [
    (lambda c: c['state_dict'].popitem(), 'does not fit the config'),
    (lambda c: c['state_dict']['net.0.weight'].fill_(np.nan), 'holds NaN'),
    (lambda c: c['ema_state_dict']['module.net.0.weight'].fill_(np.inf),
     'holds NaN or infinite'),
    (lambda c: c.pop('optimizer'), 'lacks the optimizer or the place'),
    (lambda c: c['meta'].pop('iter'), 'lacks the optimizer or the place'),
    (lambda c: c['meta']['resume'].update(batches=-3),
     'lacks the optimizer or the place'),
    (lambda c: c['meta'].update(resume=[]),
     'lacks the optimizer or the place'),
    (lambda c: c.update(state_dict=3), 'holds no weights'),
])
def test_what_nobody_can_go_on_from_is_refused(change, words, tmp_path):
    train(tmp_path, Record(('train', 9), kill))
    path = tmp_path / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=words):
        train(tmp_path, resume=True, load_from=str(path))


def test_what_is_saved_before_the_first_iteration_is_a_beginning(
        plain, tmp_path):
    class Early(Hook):
        priority = 'HIGHEST'  # before ours know that an epoch begins

        def before_train_epoch(self, runner):
            if not runner.iter:
                runner.save_checkpoint(str(tmp_path), 'begin.pth',
                                       meta=dict(epoch=0, iter=0))
                raise Killed

    train(tmp_path / 'run', Early())
    runner, record = train(tmp_path / 'run', resume=True,
                           load_from=str(tmp_path / 'begin.pth'))
    expected, whole = plain[True, 1]
    assert record.seen == whole.seen and record.metrics == whole.metrics
    assert_equal(state(runner), state(expected))


def test_one_checkpoint_is_never_all_there_is(tmp_path):
    """MMEngine removes the old one before the new one is written."""
    train(tmp_path, checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=1))
    assert {path.name for path in tmp_path.glob('*.pth')} == {
        'epoch_2.pth', 'epoch_3.pth'
    }


def test_a_best_of_what_is_not_measured(tmp_path):
    with pytest.raises(SystemExit, match="save_best .* is 'mAP', which no eva"
                       ), cli.clear_build_errors():
        train(tmp_path, checkpoint=dict(
            type='CheckpointHook', save_best='mAP'))
    with pytest.raises(KeyError), cli.clear_build_errors():
        raise KeyError('of another kind')


def test_two_runs_into_one_work_dir(tmp_path):
    """The second one would move away what the first one has saved."""
    context = torch.multiprocessing.get_context('fork')
    begun, go_on = context.Event(), context.Event()

    def wait():
        begun.set()
        go_on.wait(60)

    first = context.Process(target=train, args=(
        tmp_path, Record(('train', ITERATIONS + 1), wait)))
    first.start()
    assert begun.wait(60)
    saved = sorted(tmp_path.glob('*.pth'))
    with pytest.raises(CheckpointError, match='another training run is writ'):
        train(tmp_path)
    assert saved and sorted(tmp_path.glob('*.pth')) == saved
    go_on.set()
    first.join()
    train(tmp_path)  # the other has ended
    assert [*tmp_path.glob(f'before_*/epoch_{EPOCHS}.pth')]


def test_another_run_in_the_same_folder_overwrites_nothing(tmp_path, capsys):
    train(tmp_path, ResultsHook())
    before = {
        path.name: path.read_bytes()
        for pattern in ('*.pth', 'results.*')
        for path in tmp_path.glob(pattern)
    }
    assert {'results.csv', 'epoch_3.pth'} < set(before)
    assert 'earlier training run' not in capsys.readouterr().out
    used = tmp_path / 'epoch_2.pth'
    own = tmp_path / 'fasternet_t0.pth', tmp_path / 'results.txt'
    for path in own:  # nothing that a training run writes
        path.write_text('mine')
    train(tmp_path, ResultsHook(), Record(('train', 5), kill), seed=1,
          load_from=str(used))
    folder, = tmp_path.glob('before_*')
    assert {path.read_text() for path in own} == {'mine'}
    assert f'WARNING - {tmp_path} holds an earlier training run' in \
        capsys.readouterr().out
    # what it began with stays in its place
    assert before.pop('epoch_2.pth') == used.read_bytes()
    assert before == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert {path.name for path in tmp_path.glob('epoch_*.pth')} == {
        'epoch_1.pth', 'epoch_2.pth'}
    # to go on is the same run, in which nothing is moved
    train(tmp_path, ResultsHook(), seed=1, resume=True)
    assert list(tmp_path.glob('before_*')) == [folder]


@pytest.mark.parametrize('tensors', [
    {'net.0.weight': torch.zeros(3, 1)}, {'other': torch.zeros(1)}, {},
    {'net.1.num_batches_tracked': torch.zeros(3)}
], ids=['another shape', 'another name', 'none', 'a counter'])
def test_weights_of_which_nothing_fits_are_refused(tensors, tmp_path):
    """It would train from scratch, and nobody would know."""
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=tensors), path)
    with pytest.raises(CheckpointError, match=f'load_from={path}: none of its '
                       f'{len(tensors)} tensors fits'):
        train(tmp_path / 'run', load_from=str(path))
    some = {'module.net.0.weight': torch.zeros(8, 1)}
    torch.save(some, path)  # EMAHook would end in a KeyError
    with pytest.raises(CheckpointError, match='weights under "state_dict"'):
        train(tmp_path / 'run', load_from=str(path))
    torch.save(dict(state_dict=some), path)
    runner, _ = train(tmp_path / 'run', load_from=str(path))
    assert runner.iter == LAST


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / '.epoch_1.pth.123.part').write_bytes(b'half')
    train(tmp_path)
    assert not list(tmp_path.glob('.*.part'))
