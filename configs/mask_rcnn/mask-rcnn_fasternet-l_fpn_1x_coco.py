# SPDX-License-Identifier: Apache-2.0
_base_ = './mask-rcnn_fasternet-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768, 1536]))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
