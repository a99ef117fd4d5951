# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# T2 is the largest variant with which l is lighter than YOLOv8l
deepen_factor = 1.0
widen_factor = 1.0
last_stage_out_channels = 512
neck_channels = [256, 512, last_stage_out_channels]
affine_scale = 0.9
mixup_prob = 0.15

model = dict(
    backbone=dict(arch='t2', init_cfg=dict(checkpoint=pretrained)),
    neck=dict(
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        out_channels=neck_channels),
    bbox_head=dict(
        head_module=dict(
            in_channels=neck_channels, widen_factor=widen_factor)))
