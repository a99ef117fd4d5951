# SPDX-License-Identifier: Apache-2.0
_base_ = './fasternet-t0_8xb512_in1k.py'

arch = 's'
randaugment_level = 7
mixup_alpha = 0.3
weight_decay = 0.03
