# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# T1 is the largest variant with which m is lighter than YOLOv8m
arch = 't1'
deepen_factor = 0.67
widen_factor = 0.75
last_stage_out_channels = 768
affine_scale = 0.9
mixup_prob = 0.1
