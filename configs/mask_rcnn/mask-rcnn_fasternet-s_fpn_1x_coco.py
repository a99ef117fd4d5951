# SPDX-License-Identifier: Apache-2.0
# The paper's Mask R-CNN (Tables 4 and 7), 8 GPUs x 2 images. Epochs, steps,
# warm-up, image size and normalisation are those of the inherited files.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
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
        arch='s',
        drop_path_rate=0.15,  # 0.1 on ImageNet
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='fasternet://auto')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4))
default_hooks = mmfasternet.config.default_hooks.our_hooks()
