# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# T0 is the largest variant with which s is lighter than YOLOv8s
deepen_factor = 0.33
widen_factor = 0.5
last_stage_out_channels = 1024
neck_channels = [256, 512, last_stage_out_channels]

model = dict(
    backbone=dict(arch='t0', init_cfg=dict(checkpoint=pretrained)),
    neck=dict(
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        out_channels=neck_channels),
    bbox_head=dict(
        head_module=dict(
            in_channels=neck_channels, widen_factor=widen_factor)))
