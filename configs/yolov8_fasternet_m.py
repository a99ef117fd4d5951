# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# T1 is the largest variant with which m is lighter than YOLOv8m
deepen_factor = 0.67
widen_factor = 0.75
last_stage_out_channels = 768
neck_channels = [256, 512, last_stage_out_channels]
affine_scale = 0.9
mixup_prob = 0.1

model = dict(
    backbone=dict(arch='t1', init_cfg=dict(checkpoint=pretrained)),
    neck=dict(
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        out_channels=neck_channels),
    bbox_head=dict(
        head_module=dict(
            in_channels=neck_channels, widen_factor=widen_factor)))
