# SPDX-License-Identifier: GPL-3.0-only
"""Detect small objects in large images, patch after patch.

It needs SAHI: pip install sahi.
"""
import os.path as osp
from pathlib import Path

from image_demo import image_parser, images_of, load, save_all

from mmfasternet import cli


def parse_args():
    parser = image_parser(__doc__.split('\n')[0])
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='the same as --backend pytorch')
    parser.add_argument(
        '--patch-size',
        type=cli.positive_int,
        default=640,
        help='side of a patch in pixels (default: 640)')
    parser.add_argument(
        '--patch-overlap-ratio',
        type=cli.share,
        default=0.25,
        help='of its side, what a patch shares with the next (default: 0.25)')
    parser.add_argument(
        '--merge-iou-thr',
        type=cli.share,
        default=0.25,
        help='boxes of two patches that overlap by more are one (default: '
        '0.25)')
    parser.add_argument(
        '--merge-nms-type', choices=['nms', 'soft_nms'], default='nms',
        help='how boxes of two patches become one (default: nms)')
    parser.add_argument(
        '--save-patch',
        action='store_true',
        help='draw what was found in each patch into OUT_DIR/patch, too')
    args = parser.parse_args()
    if args.patch_overlap_ratio == 1:
        parser.error('--patch-overlap-ratio must be below 1')
    if args.deploy:
        args.backend = args.backend or 'pytorch'
    return args


def detect_patches(args, predictor, images, skipped):
    """Path and merged detections of each image that can be read."""
    from mmyolo.utils.large_image import merge_results_by_nms
    from sahi.slicing import slice_image

    from mmfasternet.deploy.predictor import as_array
    from mmfasternet.deploy.result_files import output_names, write_image
    names = dict(zip(images, output_names(images, args.img)))
    for path, (image, _) in skipped.readable(images, as_array):
        patches = slice_image(
            image,
            slice_height=args.patch_size,
            slice_width=args.patch_size,
            auto_slice_resolution=False,
            overlap_height_ratio=args.patch_overlap_ratio,
            overlap_width_ratio=args.patch_overlap_ratio)
        results = predictor(patches.images, args.batch_size)
        if args.save_patch:
            stem, suffix = osp.splitext(names[path][0])
            for patch, result, (x, y) in zip(patches.images, results,
                                             patches.starting_pixels):
                write_image(
                    predictor.draw(patch, result, args.score_thr),
                    osp.join(args.out_dir, 'patch', f'{stem}_{x}_{y}{suffix}'))
        yield path, merge_results_by_nms(
            results, patches.starting_pixels, image.shape[:2],
            dict(type=args.merge_nms_type, iou_threshold=args.merge_iou_thr))


def main():
    args = parse_args()
    with cli.clear_errors(ImportError, OSError, ValueError):
        from mmfasternet.config import load_config
        from mmfasternet.deploy.engines import require_package
        require_package('sahi')
        images, skipped = images_of(args), cli.Skipped()
        cli.make_folder(Path(args.out_dir))
        predictor = load(args, load_config(args.config, args.cfg_options))
        save_all(args, images, predictor,
                 detect_patches(args, predictor, images, skipped), skipped)


if __name__ == '__main__':
    main()
