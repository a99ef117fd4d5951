# SPDX-License-Identifier: Apache-2.0
"""The shares of the levels, from assignments made by hand."""
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from conftest import on_ranks
from mmengine.logging import MessageHub
from torch import nn

from mmfasternet.engine import LevelAssignmentHook

STRIDES = [8., 8., 8., 8., 16., 16., 32.]  # of seven priors


class Told(nn.Module):
    """Assigns what it is told, with the signature of mmyolo's."""

    def forward(self, pred_bboxes, pred_scores, priors, gt_labels, gt_bboxes,
                pad_bbox_flag):
        return dict(fg_mask_pre_prior=gt_labels)


class Head(nn.Module):

    def __init__(self, assigner):
        super().__init__()
        self.assigner = assigner


class Model(nn.Module):

    def __init__(self, assigner=None):
        super().__init__()
        self.bbox_head = Head(Told() if assigner is None else assigner)

    def told(self, *images, by_name=False):
        """Assign priors, by their numbers, in each image of a batch."""
        mask = torch.zeros(len(images), len(STRIDES), dtype=torch.bool)
        for row, assigned in zip(mask, images):
            row[assigned] = True
        stride = torch.tensor(STRIDES)
        priors = torch.stack([stride, stride, stride, stride], 1)
        if by_name:
            self.bbox_head.assigner(
                None, None, gt_labels=mask, gt_bboxes=None, priors=priors,
                pad_bbox_flag=None)
        else:
            self.bbox_head.assigner(None, None, priors, mask, None, None)


def made(name, model=None, **cfg):
    warnings = []
    runner = SimpleNamespace(
        model=Model() if model is None else model,
        epoch=0,
        cfg=cfg,
        message_hub=MessageHub.get_instance(name),
        logger=SimpleNamespace(warning=warnings.append))
    hook = LevelAssignmentHook()
    hook.before_train(runner)
    return runner, hook, warnings


def shares(runner):
    return {
        key: value
        for key, value in runner.message_hub.runtime_info.items()
        if key.startswith('assigned/')
    }


@pytest.mark.parametrize('by_name', [False, True])
def test_the_shares_are_those_of_the_epoch(by_name):
    runner, hook, warnings = made(f'shares {by_name}')
    hook.before_train_epoch(runner)
    runner.model.told([0, 1, 4], [0, 6], by_name=by_name)
    runner.model.told([3], [], by_name=by_name)
    hook.after_train_epoch(runner)
    assert shares(runner) == {
        'assigned/stride 8': 4 / 6,
        'assigned/stride 16': 1 / 6,
        'assigned/stride 32': 1 / 6
    }
    assert not warnings
    # the next one begins from nothing
    hook.before_train_epoch(runner)
    runner.model.told([4, 6])
    hook.after_train_epoch(runner)
    assert shares(runner)['assigned/stride 8'] == 0
    assert shares(runner)['assigned/stride 16'] == 0.5
    # and nothing is counted when the training run is over
    hook.after_train(runner)
    runner.model.told([0])
    hook.after_train_epoch(runner)
    assert shares(runner)['assigned/stride 8'] == 0
    # a checkpoint does not keep them
    assert 'assigned/stride 8' not in runner.message_hub.state_dict()[
        'runtime_info']


def test_a_level_without_objects_is_warned_of_once_for_each_change():
    runner, hook, warnings = made(
        'empty', initial_distance=2.5, img_scale=(320, 320))
    for assigned in ([0, 4], [1, 4], [0, 4, 6], [0, 5], [0]):
        hook.before_train_epoch(runner)
        runner.model.told(assigned)
        hook.after_train_epoch(runner)
        runner.epoch += 1
    first, second, third = warnings
    for words in ('epoch 1: no object', 'level of stride 32,',
                  'initial_distance = 2.5', 'img_scale = (320, 320)',
                  'lower initial_distance', 'larger img_scale'):
        assert words in first
    assert 'epoch 4: ' in second and 'stride 32,' in second
    assert 'epoch 5: ' in third and 'stride 16, 32,' in third


def test_images_without_objects_are_no_division_by_zero():
    runner, hook, warnings = made('nothing')
    hook.before_train_epoch(runner)
    runner.model.told([])
    hook.after_train_epoch(runner)
    assert set(shares(runner).values()) == {0} and len(warnings) == 1


@pytest.mark.parametrize('assigner', [
    nn.Identity(), SimpleNamespace(), nn.ModuleDict()
], ids=['of other results', 'no module', 'never called'])
def test_other_assigners_are_left_alone(assigner):
    runner, hook, warnings = made(str(assigner), Model(assigner))
    hook.before_train_epoch(runner)
    if isinstance(assigner, nn.Identity):
        runner.model.bbox_head.assigner(defaultdict(dict))
    hook.after_train_epoch(runner)
    assert not shares(runner) and not warnings


def ranks_of_two(rank, ranks):
    runner, hook, warnings = made(f'rank {rank}')
    hook.before_train_epoch(runner)
    runner.model.told([0, 1, 2] if rank else [6])
    hook.after_train_epoch(runner)
    return shares(runner), len(warnings)


def test_all_processes_are_counted(tmp_path):
    expected = {
        'assigned/stride 8': 0.75,
        'assigned/stride 16': 0,
        'assigned/stride 32': 0.25
    }
    assert on_ranks(2, ranks_of_two, tmp_path / 'two') == [(expected, 1)] * 2
