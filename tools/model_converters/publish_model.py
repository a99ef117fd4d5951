# SPDX-License-Identifier: Apache-2.0
"""Make of a checkpoint of a training run a file to publish.

It keeps the weights, the averaged ones where the run averages, and the names
of the classes; the optimizer, the log and the config, which has paths of the
machine, stay behind. The name ends with the first 8 digits of its SHA-256, as
OpenMMLab's do, and whoever loads it by a URL has it checked.
"""
import hashlib
import io
from pathlib import Path

import torch

from mmfasternet import __version__, cli
from mmfasternet.checkpoint import (
    CheckpointError,
    get_checkpoint,
    noted_meta,
    whole_file,
)


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('in_file', help='checkpoint of a training run')
    parser.add_argument(
        'out_file', help='file to write, the digits go before its suffix')
    parser.add_argument(
        '--fp16',
        action='store_true',
        help='weights of convolutions in 16 bits, half the size; norms and '
        'biases stay in 32')
    return parser.parse_args()


def published(checkpoint, name, fp16):
    """What is kept of a checkpoint.

    Raises:
        CheckpointError: If it has no weights.
    """
    weights = checkpoint.get('state_dict') if isinstance(
        checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f'{name} has no weights under state_dict: give '
                              'a checkpoint of a training run')
    if fp16:
        weights = {
            key: value.half() if value.dtype == torch.float32
            and value.ndim > 1 else value for key, value in weights.items()}
        for key, value in weights.items():
            if not value.isfinite().all():
                raise CheckpointError(f'{key} of {name} is not finite in 16 '
                                      'bits: leave out --fp16')
    meta = dict(mmfasternet_version=__version__)
    noted = noted_meta(checkpoint).get('dataset_meta')
    if noted and isinstance(noted, dict):
        meta['dataset_meta'] = dict(noted)
    return dict(meta=meta, state_dict=weights)


def main():
    args = parse_args()
    with cli.clear_errors():
        cli.require_output(args.out_file, args.in_file)
        checkpoint = get_checkpoint(args.in_file)
        file = io.BytesIO()
        torch.save(published(checkpoint, args.in_file, args.fp16), file)
        digits = hashlib.sha256(file.getvalue()).hexdigest()
        path = Path(args.out_file)
        path = path.with_name(f'{path.stem}-{digits[:8]}{path.suffix}')
        with whole_file(path) as out:
            out.write(file.getvalue())
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digits}')


if __name__ == '__main__':
    main()
