# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

# https://github.com/Shenggan/BCCD_Dataset (MIT), as voc2coco.py writes it
data_root = 'data/bccd/'
train_ann_file = 'annotations/train.json'
train_data_prefix = 'JPEGImages/'
val_ann_file = 'annotations/val.json'
val_data_prefix = 'JPEGImages/'
classes = ('Platelets', 'RBC', 'WBC')
img_scale = (320, 320)
train_batch_size_per_gpu = 8
total_batch_size = 8
train_num_workers = 2
val_num_workers = 2
max_epochs = 30
val_interval = 5
log_interval = 5
