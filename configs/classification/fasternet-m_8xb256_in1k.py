# SPDX-License-Identifier: Apache-2.0
_base_ = './fasternet-t0_8xb512_in1k.py'

arch = 'm'
randaugment_level = 7
mixup_alpha = 0.5
train_batch_size_per_gpu = 256
base_lr = 0.002
total_batch_size = 2048
weight_decay = 0.05
max_grad_norm = 1.0
