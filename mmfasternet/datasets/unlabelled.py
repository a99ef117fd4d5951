# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""Images without labels, beside those with, for a detector with a teacher."""
import math
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.dataset import Compose, ConcatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset
from torch.utils.data import Sampler

from mmfasternet.registry import DATA_SAMPLERS, DATASETS

from .images import unlabelled_images


@DATASETS.register_module()
class UnlabelledImages(BatchShapePolicyDataset):
    """The images in a folder and the folders in it that have no labels.

    What the pipeline gives says ``unlabelled`` in its metainfo, so that
    :func:`.yolov5_collate` marks the image, which is no background.

    Args:
        listed (Sequence[Sequence[str]]): COCO json files, each with the
            folder of its images, below ``data_root``; those images are left
            out. Defaults to none.
        **kwargs: See :class:`mmengine.dataset.BaseDataset`; ``data_prefix``
            has the folder as ``img``, and there is no ``ann_file``.
    """

    def __init__(self,
                 *args,
                 listed: Sequence[Sequence[str]] = (),
                 **kwargs) -> None:
        self.listed = listed
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> List[dict]:
        """One entry for each image.

        Raises:
            FileNotFoundError: If there is no image.
        """
        root = self.data_root or ''
        paths = unlabelled_images(
            self.data_prefix['img'],
            [[osp.join(root, path) for path in pair] for pair in self.listed])
        return [
            dict(img_id=-1 - number, img_path=path, instances=[])
            for number, path in enumerate(paths)
        ]

    def prepare_data(self, idx: int) -> Any:
        """As mmyolo does, then mark it."""
        data = super().prepare_data(idx)
        if data is not None:
            data['data_samples'].set_metainfo(dict(unlabelled=True))
        return data


@DATASETS.register_module()
class WithUnlabelled(ConcatDataset):
    """Images with labels, then those without.

    Each kind is mixed with its own in mosaic and mixup.

    Args:
        labelled (dict): A data set.
        unlabelled (dict): Of images without labels; classes are those of the
            other.
        lazy_init (bool): Whether to read both later. Defaults to False.
    """

    def __init__(self,
                 labelled: dict,
                 unlabelled: dict,
                 lazy_init: bool = False) -> None:
        first = MMENGINE_DATASETS.build(labelled)
        second = MMENGINE_DATASETS.build(
            {**unlabelled, 'metainfo': first.metainfo})
        super().__init__([first, second], lazy_init)

    @property
    def pipeline(self) -> Compose:
        """Of both."""
        return self.datasets[0].pipeline

    @pipeline.setter
    def pipeline(self, value: Compose) -> None:
        # as mmdet's PipelineSwitchHook sets it
        for dataset in self.datasets:
            dataset.pipeline = value


@DATA_SAMPLERS.register_module()
class MixedSampler(Sampler):
    """Goes through the images with labels once an epoch, with others between.

    Of those without labels as many are taken as there are with, others in
    each epoch, or all if there are fewer; spread evenly, so that each batch
    has the same share of both.

    Args:
        dataset (WithUnlabelled): The data set.
        shuffle (bool): Whether to shuffle both kinds. Defaults to True.
        seed (int, optional): The same in all processes. Defaults to None: one
            that they agree on.
    """

    def __init__(self,
                 dataset: WithUnlabelled,
                 shuffle: bool = True,
                 seed: Optional[int] = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        labelled, unlabelled = map(len, dataset.datasets)
        self._totals = labelled, unlabelled
        self._sizes = [
            math.ceil(size / self.world_size)
            for size in (labelled, min(labelled, unlabelled))
        ]

    def __len__(self) -> int:
        return sum(self._sizes)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, of which the order follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        places, indices, offset = [], [], 0
        for total, size in zip(self._totals, self._sizes):
            places += [(number + 0.5) / size for number in range(size)]
            indices += [offset + index for index in self._take(total, size)]
            offset += total
        order = sorted(range(len(indices)), key=lambda i: (places[i], i))
        return iter([indices[i] for i in order])

    def _take(self, total: int, size: int) -> Iterator[int]:
        """This epoch's and process's part of one shuffle after the other."""
        first = self.epoch * size * self.world_size
        orders: Dict[int, List[int]] = {}
        for place in range(first + self.rank, first + size * self.world_size,
                           self.world_size):
            turn = place // total
            if turn not in orders:
                orders[turn] = self._order(total, turn)
            yield orders[turn][place % total]

    def _order(self, total: int, turn: int) -> List[int]:
        if not self.shuffle:
            return list(range(total))
        generator = torch.Generator().manual_seed(self.seed + turn)
        return torch.randperm(total, generator=generator).tolist()
