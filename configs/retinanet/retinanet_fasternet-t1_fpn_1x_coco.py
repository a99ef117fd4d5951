# SPDX-License-Identifier: Apache-2.0
_base_ = './retinanet_fasternet-t0_fpn_1x_coco.py'
model = dict(backbone=dict(arch='t1'), neck=dict(in_channels=[128, 256, 512]))
