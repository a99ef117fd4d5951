# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

# needs no download: the data set writes itself to data_root
dataset_type = 'mmfasternet.DigitsDataset'
data_root = 'data/digits/'
train_ann_file = 'annotations/train.json'
train_data_prefix = 'train/'
val_ann_file = 'annotations/val.json'
val_data_prefix = 'val/'
classes = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
img_scale = (192, 192)
train_batch_size_per_gpu = 8
total_batch_size = 8
train_num_workers = 2
val_num_workers = 2
flip_prob = 0.0  # a mirrored 2 is no 2
max_epochs = 15
close_mosaic_epochs = 4
val_interval = 5
log_interval = 25
val_evaluator = dict(classwise=True)
test_evaluator = val_evaluator
