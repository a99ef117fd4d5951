# SPDX-License-Identifier: Apache-2.0
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.engine'],
    allow_failed_imports=False)
import mmfasternet.config.default_hooks  # noqa: E402

model = dict(
    # RTMDet feeds BGR; FasterNet's ImageNet weights expect RGB
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    # CSPNeXt ends in an SPP; with another backbone RTMDet has none
    backbone=dict(
        _delete_=True,
        type='mmfasternet.FasterNet',
        arch='t0',
        init_cfg=dict(type='Pretrained', checkpoint='fasternet://auto')),
    neck=dict(in_channels=[80, 160, 320]))
default_hooks = mmfasternet.config.default_hooks.our_hooks()
