# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

pretrained = 'fasternet://auto'  # ImageNet weights; None: from scratch
# T0 is the largest variant with which s is lighter than YOLOv8s
arch = 't0'
deepen_factor = 0.33
widen_factor = 0.5
last_stage_out_channels = 1024
