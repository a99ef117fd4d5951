# SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """A COCO-shaped folder: bright squares of two classes on noise."""
    root = tmp_path_factory.mktemp('data') / 'coco'
    (root / 'annotations').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(1, 6):
            image = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8)
            x, y = rng.integers(0, 30, 2).tolist()
            image[y:y + 24, x:x + 24] = (0, 0, 255) if i % 2 else (255, 0, 0)
            cv2.imwrite(str(root / split / f'{i}.png'), image)
            images.append(
                dict(id=i, file_name=f'{i}.png', width=80, height=60))
            annotations.append(
                dict(
                    id=i,
                    image_id=i,
                    category_id=10 * (1 + i % 2),
                    bbox=[x, y, 24, 24],
                    area=576,
                    iscrowd=0))
        (root / f'annotations/{split}.json').write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=[
                        dict(id=10, name='blue'),
                        dict(id=20, name='red')
                    ])))
    return root


@pytest.fixture(scope='session')
def coco_options(coco):
    """The knobs that make any of our configs train on it in a second."""
    return dict(
        dataset_type='YOLOv5CocoDataset',
        data_root=f'{coco}/',
        train_ann_file='annotations/train.json',
        train_data_prefix='train/',
        val_ann_file='annotations/val.json',
        val_data_prefix='val/',
        classes=['blue', 'red'],
        img_scale=[64, 64],
        train_batch_size_per_gpu=2,
        train_num_workers=0,
        val_num_workers=0,
        max_epochs=1,
        pretrained=None)
