# SPDX-License-Identifier: Apache-2.0
"""Random numbers that follow from the seed and the place in a training run."""
import random
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader

from mmfasternet.compat.mmengine_runner import replace_batches, restart_sampler

# the first word of a random stream, so that no two of them are the same
OF_IMAGES, OF_ITERATIONS, OF_EPOCHS = range(3)


def _seed(*place: int) -> int:
    """A random number of 32 bits for a place in a training run."""
    seed, *key = place
    return int(
        np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def set_seed(*place: int) -> None:
    """Begin the random numbers of this process for a place."""
    seed = _seed(*place)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededBatches:
    """Stands for the batch sampler of a data loader.

    Where that gives indices, it gives pairs of an index and a seed, for the
    data set to be asked with :class:`_SeededImages`; and it can begin later.

    Args:
        loader (DataLoader): It takes both.
        seed (int): For a sampler that has none of its own.
    """

    def __init__(self, loader: DataLoader, seed: int) -> None:
        self._batch_sampler = loader.batch_sampler
        self._num_images = max(len(loader.dataset), 1)
        self._world_size = get_world_size()
        self.sampler = getattr(self._batch_sampler, 'sampler', loader.sampler)
        self.batch_size = self._batch_sampler.batch_size
        self.drop_last = getattr(self._batch_sampler, 'drop_last', False)
        self.epoch: Optional[int] = None
        self._skip = 0
        self._position = 0  # images that this process has been given
        if not hasattr(self.sampler, 'seed'):  # not one of MMEngine's
            self.sampler.seed = seed
        restart_sampler(self.sampler)
        replace_batches(loader, self)
        try:
            loader.dataset.__getitems__ = _SeededImages(loader.dataset)
            self._is_seeded = True
        except AttributeError:  # a list, which has no transforms
            self._is_seeded = False

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def skip(self, num_batches: int) -> None:
        """Leave out the first batches of the next iteration."""
        self._skip = num_batches

    def __iter__(self) -> Iterator[list]:
        skip, self._skip = self._skip, 0
        for number, batch in enumerate(self._batch_sampler):
            batch = [self._place(index) for index in batch]
            if number >= skip:
                yield batch

    def _place(self, index: int) -> Any:
        turn = self.epoch
        if turn is None:  # no epochs: how often all images were given
            turn = self._position * self._world_size // self._num_images
            self._position += 1
        if not self._is_seeded:
            return index
        return index, _seed(self.sampler.seed, OF_IMAGES, turn, index)


class _SeededImages:
    """Asks a data set for images, each with random numbers of its own.

    PyTorch's data loader calls it in place of the data set, in workers as
    without them.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, places: List[Tuple[int, int]]) -> list:
        return [self._get(*place) for place in places]

    def _get(self, index: int, seed: int) -> Any:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        return self.dataset[index]
