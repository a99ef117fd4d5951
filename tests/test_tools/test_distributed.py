# SPDX-License-Identifier: GPL-3.0-only
"""Several processes and machines, killed and told to stop.

Real processes of the tools on the CPU, joined by gloo.
"""
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_equal, free_ports, on_ranks
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

from mmfasternet.compat.fsdp import keep_optim_state, whole_optim_state
from mmfasternet.config import load_config
from mmfasternet.engine import FlexibleRunner
from mmfasternet.models import FasterNet

ACT = '''
import os
import signal
import subprocess
import threading
import time
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Act(Hook):
    """Sends a signal, once: ACT is `rank when whom number`, of these
    `iteration|seconds` and `self|job`, which is Slurm's."""
    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.iteration, self.start = None, time.monotonic()
        rank, when, whom, number = os.environ.get('ACT', '-1 - - 0').split()
        if int(rank) != get_rank() or 'SLURM_RESTART_COUNT' in os.environ \
                or os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') != '0':
            return
        self.waits = whom == 'job'
        if self.waits:
            self.act = lambda: subprocess.run(
                ['scancel', '-s', number, os.environ['SLURM_JOB_ID']])
        else:
            self.act = lambda: os.kill(os.getpid(), int(number))
        if '.' in when:
            timer = threading.Timer(float(when), self.act)
            timer.daemon = True
            timer.start()
        else:
            self.iteration = int(when)

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if runner.iter == self.iteration:
            self.act()
            if self.waits:  # for Slurm
                signal.pause()

    def after_train(self, runner):
        with open(f'{runner.work_dir}/seconds', 'w') as file:
            file.write(str(time.monotonic() - self.start))
'''
EPOCHS = 3  # of 5 images: 5 iterations, or 3 of two processes


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


@pytest.fixture(scope='module')
def sharded(config):
    """The same config with the strategy of the one for FSDP."""
    cfg = load_config('configs/yolov8_fasternet_x_fsdp.py')
    path = config.with_name('sharded.py')
    path.write_text(f"_base_ = './{config.name}'\n"
                    f'runner_type = {cfg.runner_type!r}\n'
                    f'strategy = dict({cfg.strategy.to_dict()!r})\n')
    return path


def environment(config, **env):
    return dict(
        os.environ,
        PYTHONPATH=f'{config.parent}:{os.environ.get("PYTHONPATH", "")}',
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        OMP_NUM_THREADS='1',
        **{'PORT': '0', **env})  # 0: a free one


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


def result(work_dir):
    last = max(
        work_dir.glob('iter_*.pth'), key=lambda path: int(path.stem[5:]))
    checkpoint = torch.load(last, weights_only=False)
    assert checkpoint['meta']['iter'] == len(
        checkpoint['message_hub']['log_scalars']['train/loss'].data[0])
    scalars = checkpoint['message_hub']['log_scalars']
    return dict(
        {
            key: checkpoint[key]
            for key in ('state_dict', 'ema_state_dict', 'param_schedulers')
        },
        optimizer=checkpoint['optimizer']['state'],
        losses=scalars['train/loss'].data[0].tolist(),
        ap=scalars['val/coco/bbox_mAP'].data[0].tolist())


@pytest.fixture(scope='module')
def plain(config, tmp_path_factory):
    """Work directories of training runs that nobody interrupts."""
    done = {}

    def get(ranks, config=config):
        key = f'{config.stem}{ranks}'
        if key not in done:
            done[key] = tmp_path_factory.mktemp(key)
            train(config, done[key], ranks)
        return done[key]

    return get


@pytest.mark.slow
@pytest.mark.parametrize('ranks', [0, 2])
def test_a_seed_gives_equal_bits(ranks, config, tmp_path):
    for name, seed in ('first', 7), ('second', 7), ('other', 8):
        train(config, tmp_path / name, ranks, '--cfg-options',
              f'randomness.seed={seed}', 'randomness.deterministic=True')
    first, second, other = (
        result(tmp_path / name) for name in ('first', 'second', 'other'))
    assert_equal(second, first)
    assert not set(other['losses']) & set(first['losses'])


@pytest.mark.slow
def test_a_killed_rank_is_started_again_without_a_person(
        config, plain, tmp_path):
    """In the middle of epoch 2; the checkpoint is of the iteration before."""
    log = train(config, tmp_path, 2, ACT='1 4 self 9', MAX_RESTARTS='1')
    assert 'resumed epoch: 1, iter: 4' in log
    assert_equal(result(tmp_path), result(plain(2)))


@pytest.fixture
def hosts():
    """Commands that run others on two hosts with addresses of their own.

    Network namespaces; the machine's name means 127.0.0.1 on both.
    """
    names = [f'mmfasternet{os.getpid()}-{number}' for number in (1, 2)]

    def ip(*command):
        done = subprocess.run(['ip', *command], capture_output=True, text=True)
        if done.returncode:
            pytest.skip('needs iproute2 and the right to make network '
                        f'namespaces: {done.stderr.strip()}')

    if not shutil.which('ip'):
        pytest.skip('needs iproute2 (apt-get install iproute2)')
    try:
        for name in names:
            ip('netns', 'add', name)
        ip('link', 'add', 'eth0', 'netns', names[0], 'type', 'veth', 'peer',
           'name', 'eth0', 'netns', names[1])
        for number, name in enumerate(names, 1):
            ip('-n', name, 'address', 'add', f'10.77.0.{number}/24', 'dev',
               'eth0')
            ip('-n', name, 'link', 'set', 'eth0', 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
        yield [['ip', 'netns', 'exec', name] for name in names]
    finally:
        for name in names:
            subprocess.run(['ip', 'netns', 'delete', name],
                           capture_output=True)


@pytest.mark.slow
def test_two_hosts_train_as_one_does(hosts, config, plain, tmp_path):
    """With one process each, of which the second one is killed once."""
    expected = result(plain(2))
    runs = [
        subprocess.Popen(
            [*host, 'bash', 'tools/dist_train.sh', str(config), '1',
             '--work-dir', str(tmp_path)],
            stderr=subprocess.STDOUT,
            stdout=(tmp_path / f'{number}.log').open('w'),
            env=environment(
                config, NNODES='2', NODE_RANK=str(number),
                MASTER_ADDR='10.77.0.1', PORT='29500', MAX_RESTARTS='1',
                ACT='1 4 self 9'))
        for number, host in enumerate(hosts)
    ]
    try:
        statuses = [x.wait(600) for x in runs]
    finally:
        for x in runs:
            x.kill()
    logs = [(tmp_path / f'{number}.log').read_text() for number in (0, 1)]
    assert statuses == [0, 0], '\n'.join(logs)
    assert 'resumed epoch: 1, iter: 4' in ''.join(logs)
    assert_equal(result(tmp_path), expected)


SLURM = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={0}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
NodeName={nodes[0]} NodeHostname=localhost Port={1} Gres=gpu:1
NodeName={nodes[1]} NodeHostname=localhost Port={2} Gres=gpu:1
PartitionName=part Nodes=ALL
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of its own with the partition `part` of two nodes."""
    if not shutil.which('slurmctld') or os.getuid():
        pytest.skip('needs Slurm (apt-get install slurm-wlm) and root')
    # the names are 127.0.0.1 and 127.0.0.2 to any resolver
    nodes = ['0x7f000001', '0x7f000002']
    path = tmp_path / 'slurm.conf'
    path.write_text(SLURM.format(*free_ports(3), folder=tmp_path, nodes=nodes))
    (tmp_path / 'gres.conf').write_text(''.join(
        f'NodeName={node} Name=gpu File={file}\n'
        for node, file in zip(nodes, ('/dev/null', '/dev/zero'))))
    monkeypatch.setenv('SLURM_CONF', str(path))
    started = []
    try:
        for command in ['slurmctld'], *(['slurmd', '-N', n] for n in nodes):
            log = tmp_path / f'{command[-1]}.log'
            started.append(
                subprocess.Popen([*command, '-D'], stdout=log.open('w'),
                                 stderr=subprocess.STDOUT))
        # a batch job that came before the nodes would be put back for that
        subprocess.run(['srun', '-p', 'part', '-N', '2', 'true'], check=True)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_slurm_puts_the_job_back_and_it_goes_on(
        slurm, config, plain, tmp_path):
    """Slurm tells a job of two nodes to stop, after iteration 3 of 9."""
    expected = result(plain(2))
    command = ' '.join([
        'bash', 'tools/slurm_train.sh', 'part', 'name',
        str(config), f'{tmp_path}/run'
    ])
    env = dict(GPUS='2', GPUS_PER_NODE='1', CPUS_PER_TASK='1',
               PORT=str(*free_ports(1)), ACT='0 2 job 15')
    log = tmp_path / 'job.log'
    job = run(config, 'sbatch', '--parsable', '-p', 'part', '--nodes=2',
              '--gres=gpu:1', '--requeue', '--open-mode=append', '-o',
              log, '--wrap', command, **env).split()[-1]
    # sbatch --wait would not wait for the second time
    run(config, 'srun', '-p', 'part', f'--dependency=afterany:{job}', 'true')
    log = log.read_text()
    assert 'SIGTERM: a checkpoint is saved after this step' in log
    assert f'+ scontrol requeue {job}\n+ exit 143' in log
    # what the signal saved: the others are of even iterations
    assert 'resumed epoch: 1, iter: 3' in log
    assert_equal(result(tmp_path / 'run'), expected)


@pytest.mark.slow
@pytest.mark.parametrize('ranks, kills', [(0, 10), (2, 10)])
def test_killed_at_random_moments(ranks, kills, config, plain, tmp_path):
    """SIGKILL, again and again, while it trains, validates and saves."""
    expected = result(plain(ranks))
    seconds = float((plain(ranks) / 'seconds').read_text())
    dice = random.Random(int(os.environ.get('SEED', 0)))
    count = part = 0
    while count < kills:
        part += 1
        work_dir = tmp_path / f'{part}'
        while count < kills:
            moment = dice.uniform(0, seconds)
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


@pytest.fixture(scope='module')
def saved(sharded, tmp_path_factory):
    """What FSDP has saved when it is killed in the middle of epoch 2, after
    a validation."""
    work_dir = tmp_path_factory.mktemp('killed')
    train(sharded, work_dir, 2, ACT='0 4 self 9', status=1)
    last = work_dir / 'iter_4.pth'
    assert (work_dir / 'last_checkpoint').read_text() == str(last)
    return last


@pytest.mark.slow
def test_fsdp_trains_on_as_if_nobody_had_killed_it(sharded, saved, plain,
                                                   tmp_path):
    train(sharded, tmp_path, 2, '--resume', saved)
    assert_equal(result(tmp_path), result(plain(2, sharded)))


@pytest.mark.slow
def test_fsdp_trains_as_ddp_does(config, sharded, tmp_path):
    """But for the order of sums, averaged weights and clipping included.

    By SGD: a bias in front of a batch norm has a gradient of zero but for
    rounding, of which AdamW makes whole steps.
    """
    sgd = ('--cfg-options', 'optim_wrapper.optimizer.type=SGD',
           'optim_wrapper.optimizer.momentum=0.9')
    train(config, tmp_path / 'ddp', 2, *sgd)
    train(sharded, tmp_path / 'fsdp', 2, *sgd)
    train(sharded, tmp_path / 'killed', 2, *sgd, ACT='0 4 self 9', status=1)
    # DDP goes on from its checkpoint as if it had begun
    train(config, tmp_path / 'on', 2, '--resume',
          tmp_path / 'killed/iter_4.pth', *sgd)
    expected = result(tmp_path / 'ddp')
    for name in 'fsdp', 'on':
        found = result(tmp_path / name)
        for key in 'losses', 'ap':
            assert found[key] == pytest.approx(expected[key], rel=1e-4)
        for key in 'state_dict', 'ema_state_dict':
            for tensor, value in expected[key].items():
                away = (found[key][tensor] - value).double().norm()
                # 1e-6: of those biases, which stay that small
                assert away <= 1e-3 * value.double().norm() + 1e-6, tensor


def test_fsdp_that_would_not_save_one_file_is_refused(tmp_path):
    cfg = load_config('configs/yolov8_fasternet_x_fsdp.py',
                      {'strategy.state_dict_cfg': 'local'})
    cfg.work_dir = str(tmp_path)
    with pytest.raises(ValueError, match='FULL_STATE_DICT'):
        FlexibleRunner.from_cfg(cfg)


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
        line, = {
            x.split('bbox_mAP_copypaste')[1] for x in log.splitlines()
            if 'bbox_mAP_copypaste' in x
        }
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


# ---------------------------------------- processes within this test alone
def one_step(rank, ranks, train_norms):
    """Gradients and the first norm's statistics, of 8 images in all."""
    torch.manual_seed(0)
    model = FasterNet(arch='n', num_classes=5, drop_path_rate=0.).double()
    images = torch.randn(8, 3, 64, 64, dtype=torch.double)
    labels = torch.arange(8) % 5
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(train_norms)
            module.momentum = 1  # keep the statistics of this batch
    if ranks > 1:
        model = MMDistributedDataParallel(
            model, broadcast_buffers=False, device_ids=None)
    # as the sampler deals them out
    logits = model(images[rank::ranks])
    logits = logits[-1] if isinstance(logits, (list, tuple)) else logits
    nn.functional.cross_entropy(logits, labels[rank::ranks]).backward()
    model = getattr(model, 'module', model)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return dict(
        grads={k: v.grad for k, v in model.named_parameters()},
        mean=norm.running_mean,
        var=norm.running_var)


@pytest.mark.parametrize('ranks', [2, 4])
def test_gradients_are_those_of_one_process(ranks, tmp_path):
    """In double precision only the order of the sum is another one."""
    single, = on_ranks(1, one_step, tmp_path / 'one', False)
    parts = on_ranks(ranks, one_step, tmp_path / 'some', False)
    for part in parts:
        torch.testing.assert_close(
            part['grads'], single['grads'], rtol=1e-9, atol=1e-12)
        for key, value in part['grads'].items():
            assert torch.equal(value, parts[0]['grads'][key])


@pytest.mark.parametrize('ranks', [2, 4])
def test_batch_norm_sees_the_images_of_its_process(ranks, tmp_path):
    """What joins them: the law of total variance, and SyncBN on GPUs."""
    single, = on_ranks(1, one_step, tmp_path / 'one', True)
    parts = on_ranks(ranks, one_step, tmp_path / 'some', True)
    means = torch.stack([part['mean'] for part in parts])
    torch.testing.assert_close(means.mean(0), single['mean'])
    count = 8 * 16 * 16  # values of a channel behind the patch embedding
    inner = torch.stack([part['var'] for part in parts]).mean(0) * (
        1 - ranks / count)
    total = inner + means.var(0, correction=0)
    torch.testing.assert_close(total, single['var'] * (1 - 1 / count))
    # so that gradients are others, equal on all processes all the same
    difference = max((parts[0]['grads'][k] - v).abs().max()
                     for k, v in single['grads'].items())
    assert difference > 1e-4
    for key, value in parts[0]['grads'].items():
        assert torch.equal(value, parts[-1]['grads'][key])


def optimizer_state(rank, ranks, is_sharded):
    """What AdamW has of two steps, by the names of the parameters."""
    torch.manual_seed(0)
    model = FasterNet(arch='n', num_classes=5, drop_path_rate=0.).eval()
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    if is_sharded:
        model = FullyShardedDataParallel(
            model, device_id=torch.device('cpu'), use_orig_params=True)
        FullyShardedDataParallel.set_state_dict_type(
            model, StateDictType.FULL_STATE_DICT)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        logits = model(images[rank::ranks])
        logits = logits[-1] if isinstance(logits, (list, tuple)) else logits
        nn.functional.cross_entropy(logits, labels[rank::ranks]).backward()
        optimizer.step()
        optimizer.zero_grad()
    if is_sharded:
        return whole_optim_state(model, optimizer)['state']
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, optimizer.state_dict()['state'].values()))


def test_the_state_of_a_sharded_optimizer_is_whole(tmp_path):
    single, = on_ranks(1, optimizer_state, tmp_path / 'one', False)
    for part in on_ranks(2, optimizer_state, tmp_path / 'two', True):
        torch.testing.assert_close(part, single, rtol=1e-3, atol=1e-6)
        # a file of it is as large as its numbers
        for value in (v for values in part.values() for v in values.values()):
            assert value.untyped_storage().nbytes() == value.nbytes


def reloaded_state(rank, ranks):
    """The shards of AdamW's state before and after a checkpoint."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2)).to(
            memory_format=torch.channels_last)
    model = FullyShardedDataParallel(
        model, device_id=torch.device('cpu'), use_orig_params=True)
    FullyShardedDataParallel.set_state_dict_type(
        model, StateDictType.FULL_STATE_DICT)
    states = []
    checkpoint = None
    for _ in range(2):
        strategy = SimpleNamespace(
            model=model, optim_wrapper=OptimWrapper(
                torch.optim.AdamW(model.parameters())))
        keep_optim_state(strategy)
        if checkpoint is None:
            loss = model(torch.randn(2, 3, 8, 8)).square().sum()
            strategy.optim_wrapper.update_params(loss)
            checkpoint = strategy.optim_state_dict()
        else:
            strategy.load_optim_state_dict(checkpoint)
        found = strategy.optim_wrapper.optimizer.state_dict()['state']
        states.append({
            (number, kind): value.flatten()
            for number, values in found.items() if values['exp_avg'].numel()
            for kind, value in values.items()
        })
    return states


@pytest.mark.parametrize('ranks', [1, 2])
def test_weights_that_lie_channels_last_keep_their_state(ranks, tmp_path):
    for before, after in on_ranks(ranks, reloaded_state, tmp_path / 'some'):
        assert_equal(after, before)


def base_rate(rank, ranks):
    """`base_lr` before and after a checkpoint of an FSDP strategy."""
    model = FullyShardedDataParallel(
        nn.Linear(4, 2), device_id=torch.device('cpu'), use_orig_params=True)
    FullyShardedDataParallel.set_state_dict_type(
        model, StateDictType.FULL_STATE_DICT)

    def strategy():
        groups = [dict(params=[param]) for param in model.parameters()]
        made = SimpleNamespace(
            model=model, optim_wrapper=OptimWrapper(
                torch.optim.AdamW(groups, lr=1.)))
        keep_optim_state(made)
        return made

    first, second = strategy(), strategy()
    first.optim_wrapper.update_params(model(torch.ones(1, 4)).sum())
    for group in first.optim_wrapper.param_groups:
        group['lr'] = 0.5
    second.load_optim_state_dict(first.optim_state_dict())
    return second.optim_wrapper.get_lr()


def test_the_base_rate_of_a_sharded_optimizer_goes_on(tmp_path):
    for rates in on_ranks(2, base_rate, tmp_path / 'two'):
        assert rates == dict(base_lr=[0.5], lr=[0.5, 0.5])


def evaluate(rank, ranks, ann_file):
    """5 images; one is predicted wrongly, one in part."""
    metric = CocoMetric(ann_file, metric='bbox')
    metric.dataset_meta = dict(classes=('blue', 'red'))
    truth = {}
    for box in json.loads(Path(ann_file).read_text())['annotations']:
        truth[box['image_id']] = box
    for index in DefaultSampler(range(5), shuffle=False):
        box = truth[index + 1]
        x, y, w, h = box['bbox']
        x += [0, 3, 40, 1, 0][index]
        boxes = torch.tensor([[x, y, x + w, y + h], [0, 0, 9, 9]]).float()
        metric.process({}, [
            dict(
                img_id=index + 1,
                ori_shape=(60, 80),
                pred_instances=dict(
                    bboxes=boxes,
                    scores=torch.tensor([.9 - index / 10, .3 + index / 50]),
                    labels=torch.tensor([box['category_id'] // 10 - 1, 0])))
        ])
    return metric.evaluate(size=5)


@pytest.mark.parametrize('ranks', [2, 3, 4, 8])
def test_evaluation_does_not_depend_on_the_number_of_ranks(
        ranks, coco, tmp_path):
    """Each of 5 images once, also where they do not divide."""
    ann_file = str(coco / 'annotations/val.json')
    single, = on_ranks(1, evaluate, tmp_path / 'one', ann_file)
    assert 0.2 < single['coco/bbox_mAP'] < 0.9
    parts = on_ranks(ranks, evaluate, tmp_path / 'some', ann_file)
    assert parts == [single] * ranks


def scaled_rate(rank, ranks, options, work_dir):
    cfg = load_config('configs/yolov8_fasternet_n.py', options)
    cfg.work_dir, cfg.launcher = str(work_dir), 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None)
    runner = Runner.from_cfg(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    return runner.optim_wrapper.get_lr()['lr']


@pytest.mark.parametrize('ranks, batch', [(2, 4), (4, 16)])
def test_the_rate_follows_the_batch_of_all_processes(ranks, batch,
                                                     coco_options, tmp_path):
    """0.002 is for 128 images; the linear rule of Goyal et al., 2017."""
    options = dict(coco_options, train_batch_size_per_gpu=batch)
    options['auto_scale_lr.enable'] = True
    rates = on_ranks(ranks, scaled_rate, tmp_path / 'r', options,
                     tmp_path / 'work_dir')
    for rate in rates:
        assert set(rate) == {0.002 * ranks * batch / 128}


def test_no_config_lets_parameters_go_unused():
    """DDP would search for them in every iteration, and hide mistakes."""
    for path in Path('configs').rglob('*.py'):
        # however it is written: as a keyword, a key or a name
        assert 'find_unused' not in path.read_text(), path
        if 'classification' not in str(path):  # mmpretrain may be missing
            cfg = Config.fromfile(path, import_custom_modules=False)
            assert 'find_unused' not in cfg.pretty_text, path
