# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# S is the largest variant with which x is lighter than YOLOv8x
arch = 's'
deepen_factor = 1.0
widen_factor = 1.25
last_stage_out_channels = 512
affine_scale = 0.9
mixup_prob = 0.15
