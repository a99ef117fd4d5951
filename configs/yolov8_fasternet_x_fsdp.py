# SPDX-License-Identifier: GPL-3.0-only
# Optimizer, gradients and, between the steps, weights are spread over the
# processes (FSDP).
_base_ = './yolov8_fasternet_x.py'

runner_type = 'mmfasternet.FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    # a checkpoint is one file, as without FSDP
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig')))
