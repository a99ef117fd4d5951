# SPDX-License-Identifier: Apache-2.0
"""See inside any model with a backbone: what it makes of your images.

Views: `features`, the maps of each stage; `redundancy`, how much their
channels look alike; `pconv`, what partial convolutions do to the channels
that they convolve and leave; `erf`, the effective receptive field; `cam`,
class activation maps (Eigen-CAM); `levels`, which stride of a detector finds
boxes of which size. Pictures are written, tables printed.
"""
import itertools
import math
from collections import defaultdict
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import cli
from mmfasternet.analysis.inspection import level_shares, network, statistics
from mmfasternet.analysis.tables import markdown
from mmfasternet.config import load_config
from mmfasternet.datasets.images import images_in
from mmfasternet.evaluation.average_precision import read_truth
from mmfasternet.models import PartialConv
from mmfasternet.visualization import network as pictures

SHARES = (0.5, 0.95)  # of a receptive field, shown as squares
VIEWS = ('features', 'redundancy', 'pconv', 'erf', 'cam', 'levels')


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('img', help='image file, folder of images, or URL')
    cli.add_checkpoint(parser, optional=True)
    parser.add_argument(
        '--view', nargs='+', choices=VIEWS,
        help='default: all that the network has')
    parser.add_argument(
        '--target-layers', nargs='+', metavar='NAME',
        help='modules whose maps to show instead of the stages of the '
        'backbone, e.g. backbone.stages.2.blocks.0 or neck[0]')
    parser.add_argument(
        '--number', '-n', type=cli.positive_int, default=8,
        help='how many images of a folder (default: 8)')
    parser.add_argument(
        '--ann-file',
        help='for levels: COCO json of true boxes: the images that are in it '
        'are taken, and the stride that finds each box is counted (default: '
        'that of each detection with a score of at least --score-thr)')
    cli.add_score_thr(parser)
    parser.add_argument(
        '--out-dir', type=Path, default=Path('output'), help='for pictures')
    cli.add_device(parser)
    cli.add_cfg_options(parser)
    return parser.parse_args()


def as_name(text):
    """Of a module or an image, in the name of a file."""
    return text.replace('.', '_')


def print_table(title, rows):
    print(f'{title}\n{markdown(rows)}\n')


class Views:
    """A method for each view of an image, and :meth:`sum_up` of them all."""

    def __init__(self, model, args, truth):
        self.model, self.args, self.truth = model, args, truth  # or None
        self.names = args.target_layers  # of modules whose maps are shown
        self.redundancies = defaultdict(list)  # of each image, by module
        self.pconvs = defaultdict(list)
        self.fields = {}  # sums by size and name: count, field, shape
        self.boxes, self.strides = [], ()

    def look(self, views, stem, image):
        """Pictures of an image are called by its stem."""
        if self.names is None:
            self.names = network.stage_names(self.model, image.inputs)
        maps = {name: x[0] for name, x in network.feature_maps(
            self.model, image.inputs, self.names).items()}
        for view in views:
            getattr(self, view)(stem, image, maps)

    def write(self, picture, *words):
        name = '_'.join(as_name(str(word)) for word in words)
        pictures.save(picture, self.args.out_dir / f'{name}.png')

    # ---------------------------------------------------------- per image
    def features(self, stem, image, maps):
        self.write(pictures.draw_features(image.picture, maps), stem,
                   'features')
        for name, x in maps.items():
            self.write(pictures.draw_channels(image.picture, x), stem,
                       'channels', name)

    def redundancy(self, stem, image, maps):
        for name, x in maps.items():
            x = network.without_padding(x, image)
            self.redundancies[name].append(statistics.channel_redundancy(x))
            r = statistics.channel_correlation(x)
            self.write(pictures.draw_redundancy(name, x, r), stem,
                       'redundancy', name)

    def pconv(self, stem, image, maps):
        for name, *row in statistics.pconv_statistics(
                self.model, image.inputs,
                lambda x: network.without_padding(x, image)):
            self.pconvs[name].append(row)

    def erf(self, stem, image, maps):
        for name, field in statistics.receptive_fields(
                self.model, image.inputs, self.names).items():
            key = (tuple(field.shape), name)
            count, total, _ = self.fields.get(key, (0, 0., None))
            self.fields[key] = count + 1, total + field, maps[name].shape[1:]

    def cam(self, stem, image, maps):
        cams = {name: statistics.eigen_cam(x) for name, x in maps.items()}
        self.write(pictures.draw_features(image.picture, maps, cams), stem,
                   'cam')

    def levels(self, stem, image, maps):
        found, self.strides = level_shares.detect_by_level(
            self.model, image.inputs)
        if self.truth is None:
            found = found[found.scores >= self.args.score_thr]
            boxes, strides = found.bboxes, found.strides
        else:
            boxes, labels = self.truth(image.path)
            boxes = image.to_input(boxes).to(found.bboxes.device)
            strides = level_shares.levels_of(
                found, boxes, labels.to(boxes.device))
        sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
        self.boxes.append((sides.cpu(), strides.cpu()))

    # ---------------------------------------------------------- at the end
    def sum_up(self, number):
        of = f'mean of {number} images' if number > 1 else 'one image'
        if self.redundancies:
            means = {name: statistics.Redundancy(*np.mean(rows, 0))
                     for name, rows in self.redundancies.items()}
            print_table(f'channel redundancy, {of}', [{
                'map': name,
                'channels': f'{mean.channels:.0f}',
                'largest abs(r)': f'{mean.mean_max:.3f}',
                'of at least 0.9': f'{mean.alike:.1%}',
                'by chance': f'{mean.by_chance:.3f}'
            } for name, mean in means.items()])
        if self.pconvs:
            self.sum_up_pconvs(of)
        sizes = sorted({size for size, _ in self.fields})
        for size in sizes:
            self.sum_up_fields(size, len(sizes) > 1)
        if self.strides:
            self.sum_up_levels(number)

    def sum_up_pconvs(self, of):
        found = [statistics.PConvStatistics(name, *np.mean(rows, 0))
                 for name, rows in self.pconvs.items()]
        print_table(f'partial convolutions, {of}', [{
            'module': r.name,
            'convolved': f'{r.touched:.0f} of {r.touched + r.untouched:.0f}',
            'rms before': f'{r.rms_before:.3g}',
            'rms after': f'{r.rms_after:.3g}',
            'rms untouched': f'{r.rms_untouched:.3g}',
            'abs(r) before': f'{r.alike_before:.2f}',
            'abs(r) after': f'{r.alike_after:.2f}',
            'share in the 1x1':
            '-' if math.isnan(r.share) else f'{r.share:.1%}'
        } for r in found])
        self.write(pictures.draw_pconvs(found), 'pconv')

    def sum_up_fields(self, size, several):
        found = {name: sums for (own_size, name), sums in self.fields.items()
                 if own_size == size}
        fields, squares, rows = {}, {}, []
        for name, (count, total, shape) in found.items():
            field = fields[name] = total / count
            sides = {share: statistics.share_side(field, shape, share)
                     for share in SHARES}
            squares[name] = statistics.middle_of(field, shape), sides
            whole = statistics.share_side(field, shape, 1)
            rows.append({'map': name, **{
                f'{share:.0%} of it': f'{side:.0f}'
                for share, side in sides.items()}, 'all': f'{whole:.0f}'})
        of = f'{size[1]}x{size[0]}'
        print_table(f'receptive field in pixels, mean of {count} image(s) of '
                    f'{of}', rows)
        self.write(pictures.draw_fields(fields, squares), 'erf',
                   *[of] * several)

    def sum_up_levels(self, number):
        sides, strides = map(torch.cat, zip(*self.boxes))
        what = f'detections of at least {self.args.score_thr:g}' if \
            self.truth is None else 'true boxes'
        print_table(
            f'{what} in {number} image(s), by the stride that finds them',
            level_shares.share_table(sides, strides, self.strides))
        for stride in self.strides:
            if len(strides) and not (strides == stride).any():
                print(f'stride {stride} finds nothing here')


class Truth:
    """True boxes of images, from a COCO json, of some classes or all."""

    def __init__(self, path, classes):
        self.coco = read_truth(path)
        # as MMDetection numbers them
        self.labels = {id_: i for i, id_ in enumerate(
            self.coco.getCatIds(list(classes)))}
        self.ids = {}  # by the names of files, and folders before them
        for image in self.coco.dataset['images']:
            path = PurePath(image['file_name'])
            self.ids.setdefault(path.name, {})[path.parts] = image['id']

    def id_of(self, path):
        """The id of an image file, None if it is not listed.

        Where two images have its name, the folders before it tell.
        """
        found = self.ids.get(Path(path).name, {})
        if len(found) < 2:
            return next(iter(found.values()), None)
        parts = Path(path).absolute().parts
        fitting = [name for name in found if parts[-len(name):] == name]
        return found[max(fitting, key=len)] if fitting else None

    def __call__(self, path):
        """Boxes ``(M, 4)`` in pixels of an image file, and labels."""
        found = [a for a in self.coco.imgToAnns[self.id_of(path)]
                 if not a.get('iscrowd') and a['category_id'] in self.labels]
        boxes = torch.tensor([a['bbox'] for a in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, torch.tensor(
            [self.labels[a['category_id']] for a in found]).long()


def inputs_of(args, cfg):
    """The images, and what is true of them or None."""
    images = images_in(args.img)
    if args.ann_file is None:
        return images[:args.number], None
    truth = Truth(args.ann_file, cfg.get('metainfo', {}).get('classes', ()))
    known = [path for path in images if truth.id_of(path) is not None]
    if not known:
        raise ValueError(f'{args.ann_file} has none of the images in '
                         f'{args.img}, e.g. {Path(images[0]).name}')
    return known[:args.number], truth


def unique_names(images):
    """What pictures of images are called: no two the same."""
    names, taken = {}, set()
    for path in images:
        stem = as_name(Path(path).stem)
        # as images of two folders may be called
        tried = itertools.chain(
            [stem], (f'{stem}_{n}' for n in itertools.count(2)))
        names[path] = next(n for n in tried if n.lower() not in taken)
        taken.add(names[path].lower())
    return names


def main():
    args = parse_args()
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        images, truth = inputs_of(args, cfg)
        model = network.load_network(cfg, args.checkpoint, args.device)
        has = dict(
            pconv=any(isinstance(m, PartialConv) for m in model.modules()),
            levels=level_shares.has_levels(model))
        chosen = args.view or [v for v in VIEWS if has.get(v, True)]
        cli.make_folder(args.out_dir)
        views = Views(model, args, truth)
        names, skipped = unique_names(images), cli.Skipped()
        number = 0
        for path, image in skipped.readable(
                images, partial(network.prepare_image, cfg, model)):
            views.look(chosen, names[path], image)
            number += 1
        if number:
            views.sum_up(number)
    print(f'pictures of {number} image(s) in {args.out_dir}')
    skipped.end(len(images))


if __name__ == '__main__':
    main()
