# SPDX-License-Identifier: Apache-2.0
_base_ = './fasternet-t0_8xb512_in1k.py'

arch = 't2'
randaugment_level = 5
mixup_alpha = 0.1
weight_decay = 0.02
