# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images: draws the boxes and writes them as json."""
import argparse
import os
import os.path as osp

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.deploy  # noqa: F401  # isort: skip
import mmcv
from mmdet.apis import DetInferencer
from mmengine.fileio import dump

from mmfasternet import cli
from mmfasternet.checkpoint import require_fit
from mmfasternet.config import load_config
from mmfasternet.datasets.images import images_in, read_image
from mmfasternet.deploy import Predictor
from mmfasternet.deploy.engines import ENGINES, EXPORTED


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('img', help='image file, folder of images, or URL')
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        'checkpoint',
        help='checkpoint file or URL, or what tools/deploy/export.py wrote '
        '(.onnx, or .xml of OpenVINO)')
    parser.add_argument(
        '--out-dir',
        default='./output',
        help='pictures go to OUT_DIR/vis, boxes to OUT_DIR/preds')
    parser.add_argument(
        '--device', help='e.g. cuda:0 or cpu (default: the best there is)')
    parser.add_argument(
        '--backend',
        choices=ENGINES,
        help='what runs the network, in its deploy form (default: what an '
        'exported file is for; a checkpoint runs as it was trained)')
    parser.add_argument(
        '--precision',
        choices=['fp32', 'bf16', 'fp16'],
        default='fp32',
        help='of --backend (default: fp32)')
    parser.add_argument(
        '--threads', type=int, help='of --backend (default: its choice)')
    parser.add_argument(
        '--show', action='store_true', help='open a window with each picture')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of a box that is drawn (default: 0.3)')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images per forward pass')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def predict_deployed(args, cfg):
    """Boxes as DetInferencer gives them, pictures where it puts them."""
    predictor = Predictor(args.checkpoint, cfg, args.backend, args.precision,
                          args.threads, args.device or 'cpu')
    images = images_in(args.img)
    results = []
    for folder in ('vis', 'preds'):
        os.makedirs(osp.join(args.out_dir, folder), exist_ok=True)
    for path, sample in predictor.stream(images, args.batch_size):
        found = sample.pred_instances
        results.append({key: found[key].tolist()
                        for key in ('labels', 'scores', 'bboxes')})
        picture = predictor.draw(
            read_image(path), sample, args.score_thr, args.show)
        name = osp.basename(path)
        mmcv.imwrite(picture, osp.join(args.out_dir, 'vis', name))
        dump(results[-1],
             osp.join(args.out_dir, 'preds', f'{osp.splitext(name)[0]}.json'))
    return images, results, predictor.classes


def predict(args, cfg):
    """The same of the network as it was trained."""
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
    return images, results, inferencer.model.dataset_meta['classes']


def main():
    args = parse_args()
    deployed = args.backend or args.checkpoint.endswith(EXPORTED)
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        for path in (args.img, args.checkpoint):
            if '://' not in path and not osp.exists(path):
                raise FileNotFoundError(f'no such file or folder: {path}')
        images, results, classes = (
            predict_deployed if deployed else predict)(args, cfg)

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
