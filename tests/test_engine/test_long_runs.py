# SPDX-License-Identifier: GPL-3.0-only
"""What a process holds does not grow while it trains."""
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmfasternet.config import load_config


@MODELS.register_module(force=True)
class Light(BaseModel):
    """Takes no time, so that loading and the hooks take all of it."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode='tensor', **kwargs):
        return dict(loss=(self.scale * inputs.float().mean() / 255).square())


class Measure(Hook):
    """MiB of this process and its workers, file handles, threads, shm."""

    def __init__(self, *iterations):
        self.iterations, self.found = iterations, []

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if runner.iter + 1 not in self.iterations:
            return
        processes = [os.getpid()] + [
            int(pid) for task in Path('/proc/self/task').iterdir()
            for pid in (task / 'children').read_text().split()
        ]
        page = os.sysconf('SC_PAGE_SIZE') / 2**20
        self.found.append(
            dict(
                iteration=runner.iter + 1,
                memory=sum(
                    int(Path(f'/proc/{pid}/statm').read_text().split()[1])
                    for pid in processes) * page,
                files=sum(
                    len(os.listdir(f'/proc/{pid}/fd')) for pid in processes),
                threads=sum(
                    len(os.listdir(f'/proc/{pid}/task'))
                    for pid in processes),
                processes=len(processes),
                shared=len(os.listdir('/dev/shm'))))


@pytest.mark.slow
@pytest.mark.parametrize('persistent', [True, False])
def test_nothing_grows_over_2000_iterations(persistent, coco_options,
                                            tmp_path):
    """Mosaic, mixup and two workers, all hooks of tools/train.py."""
    cfg = load_config('configs/yolov8_fasternet_n.py', {
        **coco_options, 'train_num_workers': 2, 'max_epochs': 50,
        'close_mosaic_epochs': 5, 'log_interval': 100, 'mixup_prob': 0.5
    })
    cfg.train_dataloader.persistent_workers = persistent
    # 40 iterations an epoch of 5 images
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=16, dataset=cfg.train_dataloader.dataset)
    cfg.custom_hooks = cfg.custom_hooks[:1]
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=5, max_keep_ckpts=2)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    cfg.model = dict(type='mmengine.Light')
    measure = Measure(400, 2000)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(measure)
    runner.train()
    if persistent:
        runner.train_dataloader._iterator._shutdown_workers()
    early, late = measure.found
    print(early, late, sep='\n')
    for key in 'files', 'threads', 'processes', 'shared':
        assert late[key] <= early[key], key
    # MMEngine keeps every logged number: 0.2 MiB for each 1,000 iterations
    assert late['memory'] - early['memory'] < 30
