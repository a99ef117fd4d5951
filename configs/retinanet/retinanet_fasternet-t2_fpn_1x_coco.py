# SPDX-License-Identifier: Apache-2.0
_base_ = './retinanet_fasternet-t0_fpn_1x_coco.py'
model = dict(backbone=dict(arch='t2'), neck=dict(in_channels=[192, 384, 768]))
