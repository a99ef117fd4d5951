# SPDX-License-Identifier: GPL-3.0-only
# YOLOv8 with a FasterNet backbone: size n on COCO, 8 GPUs x 16 images.
# Each value in the first part reaches every place that needs it, whether a
# config that inherits this one assigns it or --cfg-options does.
_base_ = 'mmyolo::_base_/default_runtime.py'
custom_imports = dict(
    imports=[
        'mmfasternet.models', 'mmfasternet.datasets', 'mmfasternet.engine'
    ],
    allow_failed_imports=False)
import os.path  # noqa: E402

import mmfasternet.config.default_hooks  # noqa: E402
import mmfasternet.config.knobs  # noqa: E402

# ---------------------------------------------------------------- data
dataset_type = 'YOLOv5CocoDataset'
data_root = 'data/coco/'
train_ann_file = 'annotations/instances_train2017.json'
train_data_prefix = 'train2017/'
val_ann_file = 'annotations/instances_val2017.json'
val_data_prefix = 'val2017/'
test_ann_file = None  # of tools/test.py --split test; None: no such split
test_data_prefix = None  # None: the images of val
unlabelled_data_prefix = None  # more images, which the teacher labels
classes = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train',
    'truck', 'boat', 'traffic light', 'fire hydrant', 'stop sign',
    'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow',
    'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag',
    'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
    'baseball bat', 'baseball glove', 'skateboard', 'surfboard',
    'tennis racket', 'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon',
    'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot',
    'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant',
    'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote',
    'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink',
    'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear',
    'hair drier', 'toothbrush')
img_scale = (640, 640)  # width, height; multiples of 32
train_batch_size_per_gpu = 16
train_num_workers = 8
val_batch_size_per_gpu = 16
val_num_workers = 4
affine_scale = 0.5  # random scaling by 1 - affine_scale to 1 + affine_scale
mixup_prob = 0.0
flip_prob = 0.5

# ---------------------------------------------------------------- schedule
max_epochs = 500
close_mosaic_epochs = 10  # the last epochs train without mosaic and mixup
warmup_epochs = 3
base_lr = 0.002
total_batch_size = 128  # of all processes, for which base_lr is
weight_decay = 0.05
val_interval = 10
log_interval = 50  # iterations
tensorboard = False  # also write its event files (pip install tensorboard)

# ---------------------------------------------------------------- model
# FasterNet weights to start from: a file or URL of any layout, fasternet://t0
# (ImageNet), fasternet://auto for those of the backbone's arch, or None
pretrained = None
arch = 'n'  # FasterNet variant: n, t0, t1, t2, s, m, l
deepen_factor = 0.33
widen_factor = 0.25
last_stage_out_channels = 1024
strides = [8, 16, 32]
# YOLOv8's; 'mmfasternet.YOLOv8PConvHeadModule' is faster and less accurate
head_module = 'mmfasternet.YOLOv8HeadModule'
# strides from a prior to the sides of a new network's boxes; None: YOLOv8's
initial_distance = 2.5
tal_topk = 10  # candidates per object in the assigner

# ---------------------------------------------------------------- teacher
# a trained detector to learn from, see docs/en/distillation.md: its config,
# a path or like 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py', and
# its weights, a file or URL, also of Ultralytics; None: only labels teach
teacher = None
teacher_checkpoint = None

# ------------------------------------------------- the rest follows from these
mmfasternet.config.knobs.bind_knobs(
    globals(),
    derived=dict(
        num_classes='classes',
        metainfo='classes',
        neck_channels='last_stage_out_channels',
        load_image='train_dataloader and custom_hooks',
        mosaic='train_dataloader',
        pack_train='train_dataloader and custom_hooks',
        train_pipeline='train_dataloader',
        train_pipeline_stage2='custom_hooks',
        test_pipeline='val_dataloader and test_dataloader',
        switch_epoch='close_mosaic_epochs'),
    ranges=dict(
        test_ann_file='text or None',
        test_data_prefix='text or None',
        unlabelled_data_prefix='text or None',
        teacher='text or None',
        teacher_checkpoint='text or None',
        pretrained='text or None',
        img_scale='whole [32, 16384]',
        train_batch_size_per_gpu='whole [1, inf)',
        train_num_workers='whole [0, 1024]',
        val_batch_size_per_gpu='whole [1, inf)',
        val_num_workers='whole [0, 1024]',
        affine_scale='[0, 1)',
        mixup_prob='[0, 1]',
        flip_prob='[0, 1]',
        max_epochs='whole [1, inf)',
        close_mosaic_epochs='whole [0, inf)',
        warmup_epochs='[0, inf)',
        base_lr='(0, inf)',
        total_batch_size='whole [1, inf)',
        weight_decay='[0, inf)',
        val_interval='whole [1, inf)',
        log_interval='whole [1, inf)',
        deepen_factor='(0, 16]',
        widen_factor='(0, 16]',
        last_stage_out_channels='whole [1, 16384]',
        strides='whole [1, 1024]',
        initial_distance='(0, 15) or None',
        tal_topk='whole [1, inf)'))
num_classes = len(classes)
metainfo = dict(classes=classes)
neck_channels = [256, 512, last_stage_out_channels]

model = dict(
    type='mmfasternet.AnyBackboneYOLODetector',
    _scope_='mmyolo',  # for who inherits by `mmfasternet::`
    data_preprocessor=dict(
        type='YOLOv5DetDataPreprocessor',
        # ImageNet's, which FasterNet's published weights expect
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        type='mmfasternet.FasterNet',
        arch=arch,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=pretrained,
            # learns faster from scratch than the published initialisation
            scratch=dict(type='Kaiming', layer='Conv2d'))),
    # no in_channels: the detector takes them from the backbone
    neck=dict(
        type='mmfasternet.YOLOv8SPPFPAFPN',
        out_channels=neck_channels,
        deepen_factor=deepen_factor,
        widen_factor=widen_factor),
    bbox_head=dict(
        type='YOLOv8Head',
        head_module=dict(
            type=head_module,
            num_classes=num_classes,
            in_channels=neck_channels,
            widen_factor=widen_factor,
            reg_max=16,
            # mmyolo's own head module has no such option
            **(dict(initial_distance=initial_distance)
               if head_module.startswith('mmfasternet.') else {}),
            norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
            act_cfg=dict(type='SiLU', inplace=True),
            featmap_strides=strides),
        prior_generator=dict(
            type='mmdet.MlvlPointGenerator', offset=0.5, strides=strides),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss',
            use_sigmoid=True,
            reduction='none',
            loss_weight=0.5),
        loss_bbox=dict(
            type='IoULoss',
            iou_mode='ciou',
            bbox_format='xyxy',
            reduction='sum',
            loss_weight=7.5,
            return_iou=False),
        # a quarter of YOLOv8's 1.5: mmdet's loss averages over four sides
        loss_dfl=dict(
            type='mmdet.DistributionFocalLoss',
            reduction='mean',
            loss_weight=1.5 / 4)),
    train_cfg=dict(
        assigner=dict(
            # YOLOv8's BatchTaskAlignedAssigner, faster
            type='mmfasternet.SparseTaskAlignedAssigner',
            num_classes=num_classes,
            use_ciou=True,
            # no more than there are
            topk=min(
                tal_topk,
                sum(img_scale[0] // stride * (img_scale[1] // stride)
                    for stride in strides)),
            alpha=0.5,
            beta=6.0,
            eps=1e-9)),
    test_cfg=dict(
        multi_label=True,
        nms_pre=30000,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.7),
        max_per_img=300))

load_image = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True)
]
mosaic = [
    dict(
        type='Mosaic',
        img_scale=img_scale,
        pad_val=114.0,
        pre_transform=load_image),
    dict(
        type='YOLOv5RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        max_aspect_ratio=100,
        scaling_ratio_range=(1 - affine_scale, 1 + affine_scale),
        border=(-img_scale[0] // 2, -img_scale[1] // 2),
        border_val=(114, 114, 114))
]
pack_train = [
    dict(type='YOLOv5HSVRandomAug'),
    dict(type='mmdet.RandomFlip', prob=float(flip_prob)),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip',
                   'flip_direction'))
]
train_pipeline = [
    *load_image, *mosaic,
    dict(
        type='YOLOv5MixUp',
        prob=mixup_prob,
        pre_transform=[*load_image, *mosaic]), *pack_train
]
train_pipeline_stage2 = [
    *load_image,
    dict(type='YOLOv5KeepRatioResize', scale=img_scale),
    dict(
        type='LetterResize',
        scale=img_scale,
        allow_scale_up=True,
        pad_val=dict(img=114)),  # a float would fill one channel only
    dict(
        type='YOLOv5RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        max_aspect_ratio=100,
        scaling_ratio_range=(1 - affine_scale, 1 + affine_scale),
        border_val=(114, 114, 114)), *pack_train
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='YOLOv5KeepRatioResize', scale=img_scale),
    dict(
        type='LetterResize',
        scale=img_scale,
        allow_scale_up=False,
        pad_val=dict(img=114)),
    dict(type='LoadAnnotations', with_bbox=True, _scope_='mmdet'),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'pad_param'))
]

# tools/test.py --tta: three sizes, each flipped and not
tta_model = dict(
    type='mmdet.DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.65), max_per_img=300))
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        _scope_='mmyolo',
        transforms=[[
            dict(
                type='Compose',
                transforms=[
                    dict(type='YOLOv5KeepRatioResize', scale=size),
                    dict(
                        type='LetterResize',
                        scale=size,
                        allow_scale_up=False,
                        pad_val=dict(img=114))
                ]) for size in (
                    img_scale,
                    tuple(side // 64 * 32 for side in img_scale),
                    tuple(side * 3 // 64 * 32 for side in img_scale))
        ], [
            dict(type='mmdet.RandomFlip', prob=1.),
            dict(type='mmdet.RandomFlip', prob=0.)
        ], [dict(type='mmdet.LoadAnnotations', with_bbox=True)],
                    [
                        dict(
                            type='mmdet.PackDetInputs',
                            meta_keys=('img_id', 'img_path', 'ori_shape',
                                       'img_shape', 'scale_factor',
                                       'pad_param', 'flip', 'flip_direction'))
                    ]])
]

train_dataloader = dict(
    batch_size=train_batch_size_per_gpu,
    num_workers=train_num_workers,
    persistent_workers=train_num_workers > 0,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmfasternet.yolov5_collate'),
    dataset=dict(
        type=dataset_type,
        _scope_='mmyolo',
        data_root=data_root,
        metainfo=metainfo,
        ann_file=train_ann_file,
        data_prefix=dict(img=train_data_prefix),
        filter_cfg=dict(filter_empty_gt=False, min_size=32),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=val_batch_size_per_gpu,
    num_workers=val_num_workers,
    persistent_workers=val_num_workers > 0,
    pin_memory=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        _scope_='mmyolo',
        data_root=data_root,
        metainfo=metainfo,
        ann_file=val_ann_file,
        data_prefix=dict(img=val_data_prefix),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric',
    ann_file=os.path.join(data_root, val_ann_file),
    metric='bbox',
    proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator

# AdamW and a cosine, as FasterNet's own recipes; mmyolo's optimizer
# constructor for YOLO would not train a layer scale, which is no `.weight`
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=base_lr, weight_decay=weight_decay),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    *([
        dict(
            type='LinearLR',
            start_factor=0.01,
            begin=0,
            # at most a tenth of the training, so that no run stays in warm-up
            end=min(warmup_epochs, max(max_epochs // 10, 1)),
            convert_to_iter_based=True)
    ] if warmup_epochs else []),
    # together with the warm-up, whose factor multiplies this one's
    dict(
        type='CosineAnnealingLR',
        begin=0,
        T_max=max_epochs,
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True)
]
# --cfg-options auto_scale_lr.enable=True scales base_lr to the real batch,
# images of a process times processes
auto_scale_lr = dict(enable=False, base_batch_size=total_batch_size)
switch_epoch = max(max_epochs - close_mosaic_epochs, 0)
train_cfg = dict(
    type='EpochBasedTrainLoop',
    max_epochs=max_epochs,
    val_interval=val_interval,
    dynamic_intervals=[(max(switch_epoch, 1), 1)])
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    logger=dict(interval=log_interval),
    checkpoint=dict(
        interval=val_interval,
        # 'auto' would take the first class where the AP is per class
        save_best='coco/bbox_mAP',
        max_keep_ckpts=2),
    # the objects' priors on each level, and whether one gets none
    level_assignment=dict(type='mmfasternet.LevelAssignmentHook'),
    # progress, results, figures, checks, saving at a signal, exact resume
    **mmfasternet.config.default_hooks.our_hooks())
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.0001,
        update_buffers=True,
        strict_load=False,
        priority=49),
    dict(
        type='mmdet.PipelineSwitchHook',
        switch_epoch=switch_epoch,
        switch_pipeline=train_pipeline_stage2)
]
if teacher or teacher_checkpoint or unlabelled_data_prefix:
    import mmfasternet.config.distillation
    mmfasternet.config.distillation.teach(globals())
visualizer = dict(
    vis_backends=[dict(type='LocalVisBackend')] +
    [dict(type='TensorboardVisBackend')] * tensorboard)
env_cfg = dict(cudnn_benchmark=True)
