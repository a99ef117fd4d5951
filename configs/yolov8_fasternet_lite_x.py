# SPDX-License-Identifier: GPL-3.0-only
_base_ = './yolov8_fasternet_x.py'

# FasterNet's idea in neck and head, too: its blocks in the place of YOLOv8's
# bottlenecks, and partial convolutions where the head has 3x3 ones. Fast, and
# for a detector with a teacher, see docs/en/lite.md
head_module = 'mmfasternet.YOLOv8PConvHeadModule'
model = dict(
    neck=dict(fasternet_blocks=True),
    bbox_head=dict(head_module=dict(cls_convs=(0, 1), reg_convs=(0, 1))))
