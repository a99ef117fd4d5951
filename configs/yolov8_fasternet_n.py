# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

# the family file is of size n: FasterNet-n, which is ours, because with T0,
# the smallest of the paper, it would be heavier than YOLOv8n
arch = 'n'
