# SPDX-License-Identifier: Apache-2.0
# FasterNet-T0 on ImageNet-1k, 8 GPUs x 512 images, the recipe of the paper's
# Table 8; what the table leaves open is as in the authors' release. Each value
# in the first part is one knob, as in ../_base_/yolov8_fasternet.py.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.classification'],
    allow_failed_imports=False)
import mmfasternet.config.default_hooks  # noqa: E402
import mmfasternet.config.knobs  # noqa: E402

# ---------------------------------------------------------------- data
dataset_type = 'ImageNet'  # CustomDataset for your own folders of classes
data_root = 'data/imagenet/'
train_ann_file = ''  # lines `path label`; without it folders are classes
train_data_prefix = 'train/'
val_ann_file = ''
val_data_prefix = 'val/'
num_classes = 1000
train_size = 192  # pixels, until the last epochs
last_train_size = 224
test_size = 224
test_crop_ratio = 0.9  # of the resized image's short edge
randaugment_level = None  # of 10; None for no RandAugment
mixup_alpha = 0.05
cutmix_alpha = 1.0
train_batch_size_per_gpu = 512
train_num_workers = 8
val_batch_size_per_gpu = 256
val_num_workers = 8

# ---------------------------------------------------------------- schedule
max_epochs = 300
last_epochs = 20  # these train at last_train_size
warmup_epochs = 20
base_lr = 0.004
total_batch_size = 4096  # for which base_lr is
weight_decay = 0.005
max_grad_norm = None
label_smoothing = 0.1
val_interval = 1
log_interval = 100  # iterations

# ---------------------------------------------------------------- model
arch = 't0'  # decides the drop path rate, too
pretrained = None  # weights to start from, as in the detectors' configs

# ------------------------------------------------- the rest follows from these
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
mmfasternet.config.knobs.bind_knobs(
    globals(),
    ranges=dict(
        pretrained='text or None',
        num_classes='whole [1, inf)',
        train_size='whole [32, 16384]',
        last_train_size='whole [32, 16384]',
        test_size='whole [32, 16384]',
        test_crop_ratio='(0, 1]',
        randaugment_level='[0, 10] or None',
        mixup_alpha='(0, inf)',
        cutmix_alpha='(0, inf)',
        train_batch_size_per_gpu='whole [1, inf)',
        train_num_workers='whole [0, 1024]',
        val_batch_size_per_gpu='whole [1, inf)',
        val_num_workers='whole [0, 1024]',
        max_epochs='whole [1, inf)',
        last_epochs='whole [0, inf)',
        warmup_epochs='whole [0, inf)',
        base_lr='(0, inf)',
        total_batch_size='whole [1, inf)',
        weight_decay='[0, inf)',
        max_grad_norm='(0, inf) or None',
        label_smoothing='[0, 1)',
        val_interval='whole [1, inf)',
        log_interval='whole [1, inf)'))

model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',  # for who inherits by `mmfasternet::`
    data_preprocessor=dict(
        num_classes=num_classes, mean=mean, std=std, to_rgb=True),
    backbone=dict(
        type='mmfasternet.FasterNet',
        arch=arch,
        num_classes=num_classes,
        init_cfg=[
            dict(
                type='TruncNormal',
                layer=['Conv2d', 'Linear'],
                std=0.02,
                bias=0.),
            dict(
                type='Pretrained',
                checkpoint=pretrained,
                # a classifier of other classes starts afresh
                strict=num_classes == 1000)
        ]),
    head=dict(
        type='mmfasternet.LogitsHead',
        loss=dict(
            type='LabelSmoothLoss',
            label_smooth_val=label_smoothing,
            mode='original')),
    # one of the two for every batch, with equal probability
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=mixup_alpha),
        dict(type='CutMix', alpha=cutmix_alpha)
    ]))

train_pipelines = [[
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=size,
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    *([] if randaugment_level is None else [
        dict(
            type='RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=10,
            magnitude_level=randaugment_level,
            magnitude_std=0.5,
            hparams=dict(
                pad_val=[round(x) for x in mean[::-1]],
                interpolation='bicubic'))
    ]),
    dict(type='PackInputs')
] for size in (train_size, last_train_size)]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=int(test_size / test_crop_ratio),
        edge='short',
        backend='pillow',
        interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=test_size),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=train_batch_size_per_gpu,
    num_workers=train_num_workers,
    persistent_workers=train_num_workers > 0,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        _scope_='mmpretrain',
        data_root=data_root,
        ann_file=train_ann_file,
        data_prefix=train_data_prefix,
        pipeline=train_pipelines[0]))
val_dataloader = dict(
    batch_size=val_batch_size_per_gpu,
    num_workers=val_num_workers,
    persistent_workers=val_num_workers > 0,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        _scope_='mmpretrain',
        data_root=data_root,
        ann_file=val_ann_file,
        data_prefix=val_data_prefix,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='Accuracy', _scope_='mmpretrain', topk=(1, min(5, num_classes)))
test_evaluator = val_evaluator

# the release decays all parameters, norms and biases too
optim_wrapper = dict(
    type='AmpOptimWrapper',  # on CPU: --cfg-options optim_wrapper.type=...
    optimizer=dict(type='AdamW', lr=base_lr, weight_decay=weight_decay),
    clip_grad=dict(max_norm=max_grad_norm) if max_grad_norm else None)
# at most a tenth of the training, so that no run stays in warm-up
cosine_begin = min(warmup_epochs, max_epochs // 10)
param_scheduler = [
    *([
        dict(
            type='LinearLR',
            start_factor=1e-6 / base_lr,
            begin=0,
            end=cosine_begin,
            convert_to_iter_based=True)
    ] if cosine_begin else []),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        begin=cosine_begin,
        end=max_epochs,
        T_max=max_epochs - cosine_begin)
]
# --cfg-options auto_scale_lr.enable=True scales base_lr to the real batch
auto_scale_lr = dict(enable=False, base_batch_size=total_batch_size)
train_cfg = dict(
    by_epoch=True, max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(interval=log_interval),
    checkpoint=dict(
        interval=val_interval, save_best='accuracy/top1', max_keep_ckpts=1),
    **mmfasternet.config.default_hooks.our_hooks())
custom_hooks = [
    dict(
        type='SwitchRecipeHook',
        _scope_='mmpretrain',
        schedule=[
            dict(
                # counted from 1
                action_epoch=max(max_epochs - last_epochs, 0) + 1,
                train_pipeline=train_pipelines[1])
        ])
]
env_cfg = dict(cudnn_benchmark=True)
