# SPDX-License-Identifier: Apache-2.0
# Not from the paper, which has no COCO results of T0 to T2: the optimiser of
# its Mask R-CNN with M and L on MMDetection's RetinaNet, 8 GPUs x 2 images.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.engine'],
    allow_failed_imports=False)
import mmfasternet.config.default_hooks  # noqa: E402

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmfasternet.FasterNet',
        arch='t0',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='fasternet://auto')),
    # the base skips ResNet's stride 4 with start_level=1; here it is not there
    neck=dict(in_channels=[80, 160, 320], start_level=0))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4))
default_hooks = mmfasternet.config.default_hooks.our_hooks()
