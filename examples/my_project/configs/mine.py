# SPDX-License-Identifier: GPL-3.0-only
_base_ = 'mmfasternet::yolov8/yolov8_fasternet_n_digits.py'
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.datasets', 'my_project.head'],
    allow_failed_imports=False)

max_epochs = 3  # knobs work as in a config beside it
base_lr = 0.001
model = dict(bbox_head=dict(type='my_project.CautiousHead', box_gain=1.5))
