# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

# the family file is the n letter: FasterNet-n, which is ours, because T0,
# the smallest of the paper, is already heavier than the whole YOLOv8n
arch = 'n'
