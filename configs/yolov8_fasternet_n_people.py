# SPDX-License-Identifier: GPL-3.0-only
_base_ = './_base_/yolov8_fasternet.py'

# photographs of Pascal VOC 2007 with people, docs/en/lite.md has the
# commands that make them
data_root = 'data/people/'
train_ann_file = 'annotations/train.json'
train_data_prefix = 'JPEGImages/'
val_ann_file = 'annotations/val.json'
val_data_prefix = 'JPEGImages/'
classes = ('person', )
img_scale = (320, 320)
train_batch_size_per_gpu = 8
total_batch_size = 8
train_num_workers = 2
val_num_workers = 2
max_epochs = 40
val_interval = 10
