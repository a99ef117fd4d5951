# SPDX-License-Identifier: Apache-2.0
_base_ = './fasternet-t0_8xb512_in1k.py'
import mmfasternet.config.knobs  # noqa: E402

# needs no download: scikit-learn ships these digits of 8x8 pixels
num_classes = 10
train_size = 64
train_batch_size_per_gpu = 64
train_num_workers = 0  # the images are in memory, and small
val_num_workers = 0
max_epochs = 15
base_lr = 0.002
total_batch_size = 64
weight_decay = 0.05
val_interval = 5
log_interval = 10
arch = 'n'
mmfasternet.config.knobs.bind_knobs(globals())

# CutMix could cut off what tells two digits apart
model = dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]))

resize = dict(
    type='Resize', scale=(train_size, train_size), interpolation='bicubic')
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmfasternet.DigitsClassification',
        _scope_='mmpretrain',
        split='train',
        pipeline=[
            resize,
            # no flip: a mirrored 2 is no 2
            dict(
                type='Rotate', angle=15., pad_val=0, interpolation='bilinear'),
            dict(type='RandomCrop', crop_size=train_size, padding=6),
            dict(type='PackInputs')
        ]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmfasternet.DigitsClassification',
        _scope_='mmpretrain',
        split='val',
        test_mode=True,
        pipeline=[resize, dict(type='PackInputs')]))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper')  # runs on CPU
custom_hooks = []
