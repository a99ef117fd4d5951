# SPDX-License-Identifier: Apache-2.0
"""Writing files that are complete or not there at all."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Union

import safetensors.torch
import torch
from mmengine.fileio import LocalBackend


@contextmanager
def whole_file(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete on the disk.

    However it ends, an error, a full disk, a kill or a power cut: under the
    name is what was there before, or all of the new content.

    Args:
        path (str | Path): Where to; its folder is made.

    Yields:
        BinaryIO: To write to. It lies beside the file, with a dot before and
        ``.part`` behind the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if hasattr(os, 'O_DIRECTORY'):  # the new name lasts, too
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(data: Any, path: Union[str, Path]) -> None:
    """Write a checkpoint that is complete or not there at all.

    Args:
        data: What :func:`torch.save` takes; for a name that ends in
            ``.safetensors`` a dict of tensors.
        path (str | Path): Where to; its folder is made.
    """
    path = Path(path)
    with whole_file(path) as file:
        if path.suffix == '.safetensors':
            # one byte count per tensor: views must not share their storage
            file.write(
                safetensors.torch.save({
                    k: v.detach().clone().contiguous()
                    for k, v in data.items()
                }))
        else:
            torch.save(data, file)


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, each complete or not there at all."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes."""
        with whole_file(filepath) as file:
            file.write(obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)
