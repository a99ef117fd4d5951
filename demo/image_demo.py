# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images: draws the boxes and writes them as json."""
import argparse
import os.path as osp

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
from mmdet.apis import DetInferencer
from mmengine.config import DictAction

from mmfasternet.checkpoint import require_fit
from mmfasternet.config import clear_errors, load_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('img', help='image file, folder of images, or URL')
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out-dir',
        default='./output',
        help='pictures go to OUT_DIR/vis, boxes to OUT_DIR/preds')
    parser.add_argument(
        '--device', help='e.g. cuda:0 or cpu (default: the best there is)')
    parser.add_argument(
        '--show', action='store_true', help='open a window with each picture')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of a box that is drawn (default: 0.3)')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images per forward pass')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings, as key=value; see tools/train.py')
    return parser.parse_args()


def main():
    args = parse_args()
    with clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        for path in (args.img, args.checkpoint):
            if '://' not in path and not osp.exists(path):
                raise FileNotFoundError(f'no such file or folder: {path}')
        inferencer = DetInferencer(
            cfg, args.checkpoint, device=args.device, scope=cfg.default_scope)
        require_fit(inferencer.model, args.checkpoint,
                    cfg.get('metainfo', {}).get('classes', ()))
        images = inferencer._inputs_to_list(args.img)
        if not images:
            raise FileNotFoundError(f'no image in the folder {args.img}')
    results = inferencer(
        images,
        batch_size=args.batch_size,
        show=args.show,
        pred_score_thr=args.score_thr,
        no_save_pred=False,
        out_dir=args.out_dir)['predictions']

    classes = inferencer.model.dataset_meta['classes']
    for image, result in zip(images, results):
        found = [
            f'{classes[label]} {score:.2f}'
            for label, score in zip(result['labels'], result['scores'])
            if score >= args.score_thr
        ]
        print(f'{image}: {", ".join(found) or "nothing found"}')
    print(f'pictures in {osp.join(args.out_dir, "vis")}, boxes in '
          f'{osp.join(args.out_dir, "preds")}')


if __name__ == '__main__':
    main()
