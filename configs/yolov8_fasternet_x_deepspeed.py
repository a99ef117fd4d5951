# SPDX-License-Identifier: GPL-3.0-only
# Gradients and optimizer are spread over the processes by DeepSpeed
# (pip install 'deepspeed<0.19', later ones lack what MMEngine imports), whose
# checkpoints are folders.
_base_ = './yolov8_fasternet_x.py'

runner_type = 'mmfasternet.FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    zero_optimization=dict(stage=2),
    gradient_clipping=10.0)
optim_wrapper = dict(
    _delete_=True,
    type='DeepSpeedOptimWrapper',
    optimizer=dict(
        type='AdamW', lr=_base_.base_lr, weight_decay=_base_.weight_decay),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
# without EMAHook: DeepSpeed would not save the averaged weights
custom_hooks = _base_.custom_hooks[1:]
