# SPDX-License-Identifier: Apache-2.0
import os.path as osp
from typing import Sequence

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.runner import Runner

from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class PictureFoldersHook(DetVisualizationHook):
    """Pictures of a test in the folders that their images are in.

    MMDetection's hook calls a picture as its image alone, so that of two
    images of one name, in two folders, one picture is left.
    """

    def before_test_epoch(self, runner: Runner) -> None:
        """Find the folder that all images have in common."""
        dataset = runner.test_dataloader.dataset
        self._root = osp.commonpath(
            osp.dirname(osp.abspath(dataset.get_data_info(i)['img_path']))
            for i in range(len(dataset)))

    def after_test_iter(self, runner: Runner, batch_idx: int,
                        data_batch: dict,
                        outputs: Sequence[DetDataSample]) -> None:
        """Draw what was found in a batch."""
        out = self.test_out_dir
        for sample in outputs:
            if out is not None:
                folder = osp.dirname(osp.abspath(sample.img_path))
                self.test_out_dir = osp.join(
                    out, osp.relpath(folder, self._root))
            super().after_test_iter(runner, batch_idx, data_batch, [sample])
        self.test_out_dir = out
