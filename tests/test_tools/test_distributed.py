# SPDX-License-Identifier: GPL-3.0-only
"""Several processes and machines, killed and told to stop.

Real processes of the tools on the CPU, joined by gloo.
"""
import ast
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ACT = '''
import os
import signal
import threading
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Act(Hook):
    """Sends a signal, once: ACT is `rank iteration|seconds pid|self number`"""
    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.iteration = None
        rank, when, whom, number = os.environ.get('ACT', '-1 - - 0').split()
        if int(rank) != get_rank() or os.environ.get(
                'TORCHELASTIC_RESTART_COUNT', '0') != '0':
            return
        pid = os.getppid() if whom == 'parent' else os.getpid()
        self.act = lambda: os.kill(pid, int(number))
        if '.' in when:
            threading.Timer(float(when), self.act).start()
        else:
            self.iteration = int(when)

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if runner.iter == self.iteration:
            self.act()
'''
# each rank has 2 images less 1, so that they do not divide: 3 iterations
EPOCHS, LAST = 3, 9


@pytest.fixture(scope='module')
def config(coco_options, tmp_path_factory):
    """The n detector with workers, saved within epochs, too."""
    folder = tmp_path_factory.mktemp('config')
    (folder / 'act.py').write_text(ACT)
    base = Path('configs/yolov8_fasternet_n.py').resolve()
    knobs = dict(
        coco_options,
        train_batch_size_per_gpu=1,
        train_num_workers=1,
        max_epochs=EPOCHS,
        close_mosaic_epochs=1,
        val_interval=2,
        log_interval=1)
    lines = [f'{key} = {value!r}' for key, value in knobs.items()]
    (folder / 'small.py').write_text('\n'.join([
        f'_base_ = {str(base)!r}', *lines, '''
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.datasets', 'act'])
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
randomness = dict(seed=0)
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01,
         update_buffers=True, priority=49),
    dict(type='mmengine.Act'),
]
model = dict(backbone=dict(drop_path_rate=0.2))
'''
    ]))
    return folder / 'small.py'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def environment(config, **env):
    return dict(
        os.environ,
        PYTHONPATH=f'{config.parent}:{os.environ.get("PYTHONPATH", "")}',
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PORT=str(free_port()),
        OMP_NUM_THREADS='1',
        **env)


def run(config, *command, status=0, **env):
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env=environment(config, **env),
        timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def train(config, work_dir, ranks, *arguments, **kwargs):
    command = ['bash', 'tools/dist_train.sh', config, ranks] if ranks else [
        sys.executable, 'tools/train.py', config
    ]
    return run(config, *command, '--work-dir', work_dir, *arguments, **kwargs)


def result(work_dir, last=LAST):
    checkpoint = torch.load(work_dir / f'iter_{last}.pth', weights_only=False)
    scalars = checkpoint['message_hub']['log_scalars']
    return dict(
        {
            key: checkpoint[key]
            for key in ('state_dict', 'ema_state_dict', 'optimizer',
                        'param_schedulers')
        },
        losses=scalars['train/loss'].data[0].tolist(),
        ap=scalars['val/coco/bbox_mAP'].data[0].tolist())


def assert_equal(a, b, path=''):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.fixture(scope='module')
def plain(config, tmp_path_factory):
    """Work directories of trainings that nobody interrupts, by ranks."""
    done = {}

    def get(ranks):
        if ranks not in done:
            done[ranks] = tmp_path_factory.mktemp(f'plain{ranks}')
            train(config, done[ranks], ranks)
        return done[ranks]

    return get


def test_a_killed_rank_is_started_again_without_a_person(
        config, plain, tmp_path):
    """In the middle of epoch 2; the checkpoint is of the iteration before."""
    log = train(config, tmp_path, 2, ACT='1 4 self 9', MAX_RESTARTS='1')
    assert 'resumed epoch: 1, iter: 4' in log
    assert_equal(result(tmp_path), result(plain(2)))


def test_slurm_puts_the_job_back_and_it_goes_on(config, plain, tmp_path):
    """Stand-ins for Slurm's commands run the script's own ones."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    (tools / 'srun').write_text('''#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do [ "$1" = -p ] && shift; shift; done
export SLURM_PROCID=0
exec "$@"
''')
    (tools / 'scontrol').write_text(f'''#!/usr/bin/env bash
[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/scontrol
''')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    command = ['bash', 'tools/slurm_train.sh', 'part', 'name', config,
               tmp_path / 'run']
    path = f'{tools}:{Path(sys.executable).parent}:{os.environ["PATH"]}'
    env = dict(GPUS='2', SLURM_JOB_ID='7', PATH=path)
    environ = dict(environment(config), **env)
    # torchrun gets it, as from Slurm, after iteration 3 of epoch 1
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        env=dict(environ, ACT='0 2 parent 15'))
    assert done.returncode == 143, done.stdout + done.stderr
    assert 'SIGTERM: a checkpoint is saved after this step' in done.stderr
    assert (tmp_path / 'scontrol').read_text() == 'requeue 7\n'
    assert (tmp_path / 'run/last_checkpoint').read_text().endswith(
        'interrupted.pth')
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        env=dict(environ, SLURM_RESTART_COUNT='1'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(result(tmp_path / 'run'), result(plain(2)))


@pytest.mark.slow
@pytest.mark.parametrize('ranks, kills', [(0, 10), (2, 10)])
def test_killed_at_random_moments(ranks, kills, config, plain, tmp_path):
    """SIGKILL, again and again, while it trains, validates and saves."""
    import time
    expected = result(plain(ranks))
    begin = time.monotonic()
    train(config, tmp_path / 'timed', ranks)
    seconds = time.monotonic() - begin
    dice = random.Random(int(os.environ.get('SEED', 0)))
    count = part = 0
    while count < kills:
        part += 1
        work_dir = tmp_path / f'{part}'
        while count < kills:
            # of the time in which it trains, which is less than all of it
            moment = dice.uniform(0.05, 0.6 * seconds)
            rank = dice.randrange(ranks or 1)
            done = subprocess.run(
                [
                    *(['bash', 'tools/dist_train.sh', str(config), str(ranks)]
                      if ranks else
                      [sys.executable, 'tools/train.py', str(config)]),
                    '--work-dir', str(work_dir), '--resume'
                ],
                capture_output=True, text=True,
                env=environment(config, ACT=f'{rank} {moment:.3f} self 9'))
            if done.returncode == 0:  # it was faster
                break
            assert done.returncode == (1 if ranks else -signal.SIGKILL), \
                done.stdout + done.stderr
            count += 1
            last = work_dir / 'last_checkpoint'
            print(f'kill {count}: rank {rank} after {moment:.1f} s of '
                  f'training {part}; ' + (Path(last.read_text()).name if
                                          last.is_file() else 'nothing saved'))
        else:
            train(config, work_dir, ranks, '--resume')
        assert_equal(result(work_dir), expected)


@pytest.mark.slow
def test_evaluation_is_the_same_on_any_number_of_ranks(config, plain,
                                                       tmp_path):
    """5 images, which 2 and 4 ranks do not divide, by the tools."""
    checkpoint = plain(0) / f'iter_{5 * EPOCHS}.pth'
    results = {}
    for ranks in (0, 2, 4):
        out = tmp_path / f'{ranks}.pkl'
        command = ['bash', 'tools/dist_test.sh', config, checkpoint, ranks
                   ] if ranks else [
                       sys.executable, 'tools/test.py', config, checkpoint
                   ]
        log = run(config, *command, '--out', out, '--work-dir', tmp_path)
        line, = set(
            x.split('bbox_mAP_copypaste')[1] for x in log.splitlines()
            if 'bbox_mAP_copypaste' in x)
        results[ranks] = line, pickle.loads(out.read_bytes())
    line, samples = results[0]
    assert [x['img_id'] for x in samples] == [1, 2, 3, 4, 5]
    for ranks in (2, 4):
        assert results[ranks][0] == line
        for a, b in zip(samples, results[ranks][1], strict=True):
            assert a['img_id'] == b['img_id']
            for key in 'bboxes', 'scores', 'labels':
                assert torch.equal(a['pred_instances'][key],
                                   b['pred_instances'][key])


def test_no_config_lets_parameters_go_unused():
    """DDP would search for them in every iteration, and hide mistakes."""
    for path in Path('configs').rglob('*.py'):
        names = {
            node.arg or getattr(node, 'id', '')
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.keyword)
        }
        assert 'find_unused_parameters' not in names, path
