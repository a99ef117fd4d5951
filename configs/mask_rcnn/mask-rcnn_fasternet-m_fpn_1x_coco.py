# SPDX-License-Identifier: Apache-2.0
_base_ = './mask-rcnn_fasternet-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='m', drop_path_rate=0.2),
    neck=dict(in_channels=[144, 288, 576, 1152]))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
