# SPDX-License-Identifier: GPL-3.0-only
_base_ = './yolov8_fasternet_n.py'

# FasterNet's idea in the head, too: its classification branch has partial
# convolutions where YOLOv8's has 3x3 ones, see docs/en/lite.md
head_module = 'mmfasternet.YOLOv8PConvHeadModule'
model = dict(bbox_head=dict(head_module=dict(cls_convs=(0, 1))))
