# SPDX-License-Identifier: Apache-2.0
"""See inside a network: what it makes of your images.

Views: `features`, the maps of each stage; `redundancy`, how much their
channels look alike; `pconv`, what partial convolutions do to the channels
that they convolve and leave; `erf`, the effective receptive field; `cam`,
class activation maps (Eigen-CAM). Pictures are written, tables printed.
"""
import argparse
import math
from pathlib import Path

from prettytable import PrettyTable

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import analysis, cli
from mmfasternet.config import load_config
from mmfasternet.datasets.images import images_in
from mmfasternet.models import PartialConv
from mmfasternet.visualization import network as pictures

VIEWS = ('features', 'redundancy', 'pconv', 'erf', 'cam')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('img', help='image file, folder of images, or URL')
    parser.add_argument('config', help='config of any model with a backbone')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file or URL (default: initial weights)')
    parser.add_argument(
        '--view',
        nargs='+',
        choices=VIEWS,
        help='default: all that the network has')
    parser.add_argument(
        '--target-layers',
        nargs='+',
        metavar='NAME',
        help='modules whose maps to show instead of the stages of the '
        'backbone, e.g. backbone.stages.2.blocks.0 or neck[0]')
    parser.add_argument(
        '--number',
        '-n',
        type=int,
        default=8,
        help='how many images of a folder (default: 8)')
    parser.add_argument(
        '--out-dir', type=Path, default=Path('output'), help='for pictures')
    parser.add_argument('--device', default='cpu', help='e.g. cuda:0')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.number < 1:
        parser.error(f'--number must be 1 or more, got {args.number}')
    return args


def mean(rows):
    """Of named tuples, one per image."""
    return [sum(column) / len(rows) for column in zip(*rows)]


def table(title, columns, rows):
    made = PrettyTable(columns, align='r')
    made.align[columns[0]] = 'l'
    made.add_rows(rows)
    print(f'{title}\n{made}')


class Views:
    """Each view looks at one image after another, then sums up."""

    def __init__(self, model, names, out_dir):
        self.model, self.names, self.out_dir = model, names, out_dir
        self.rows = {}

    def write(self, picture, *words):
        words = [str(word).replace('.', '_') for word in words]
        pictures.save(picture, self.out_dir / f'{"_".join(words)}.png')

    # ---------------------------------------------------------- per image
    def features(self, stem, image, maps):
        self.write(pictures.draw_features(image.picture, maps), stem,
                   'features')
        for name, x in maps.items():
            self.write(pictures.draw_channels(image.picture, x), stem,
                       'channels', name)

    def redundancy(self, stem, image, maps):
        for name, x in maps.items():
            x = analysis.without_padding(x, image)
            self.rows.setdefault(('redundancy', name), []).append(
                analysis.channel_redundancy(x))
            self.write(pictures.draw_redundancy(name, x), stem, 'redundancy',
                       name)

    def pconv(self, stem, image, maps):
        for row in analysis.pconv_statistics(
                self.model, image.inputs,
                lambda x: analysis.without_padding(x, image)):
            self.rows.setdefault(('pconv', row.name), []).append(row[1:])

    def erf(self, stem, image, maps):
        fields = analysis.receptive_fields(self.model, image.inputs,
                                           self.names)
        for name, field in fields.items():
            key = ('erf', tuple(field.shape), name)
            count, total, _ = self.rows.get(key, (0, 0., None))
            self.rows[key] = count + 1, total + field, maps[name].shape[1:]

    def cam(self, stem, image, maps):
        cams = {name: analysis.eigen_cam(x) for name, x in maps.items()}
        self.write(pictures.draw_features(image.picture, maps, cams), stem,
                   'cam')

    # ---------------------------------------------------------- at the end
    def sum_up(self, number):
        of = f'mean of {number} images' if number > 1 else 'one image'
        found = {key[1]: mean(rows) for key, rows in self.rows.items()
                 if key[0] == 'redundancy'}
        if found:
            table(f'channel redundancy, {of}', [
                'map', 'channels', 'largest |r|', '|r| >= 0.9', 'by chance'
            ], [[name, f'{r[0]:.0f}', f'{r[1]:.3f}', f'{r[2]:.1%}',
                 f'{r[3]:.3f}'] for name, r in found.items()])
        found = [analysis.PConvStatistics(key[1], *mean(rows))
                 for key, rows in self.rows.items() if key[0] == 'pconv']
        if found:
            table(f'partial convolutions, {of}', [
                'module', 'convolved', 'rms before', 'rms after',
                'rms untouched', '|r| before', '|r| after', 'share in the 1x1'
            ], [[r.name, f'{r.touched:.0f} of {r.touched + r.untouched:.0f}',
                 f'{r.rms_before:.3g}', f'{r.rms_after:.3g}',
                 f'{r.rms_untouched:.3g}', f'{r.alike_before:.2f}',
                 f'{r.alike_after:.2f}',
                 '-' if math.isnan(r.share) else f'{r.share:.1%}']
                for r in found])
            self.write(pictures.draw_pconvs(found), 'pconv')
        sizes = {key[1] for key in self.rows if key[0] == 'erf'}
        for size in sorted(sizes):
            self.sum_up_fields(size, len(sizes) > 1)

    def sum_up_fields(self, size, several):
        found = {key[2]: row for key, row in self.rows.items()
                 if key[:2] == ('erf', size)}
        fields = {name: total / count
                  for name, (count, total, _) in found.items()}
        shapes = {name: shape[-2:] for name, (_, _, shape) in found.items()}
        count = next(iter(found.values()))[0]
        table(
            f'receptive field in pixels, mean of {count} image(s) of '
            f'{size[1]}x{size[0]}',
            ['map', *(f'{s:.0%} of it' for s in pictures.SHARES), 'all'],
            [[name, *(f'{analysis.share_side(field, shapes[name], s):.0f}'
                      for s in (*pictures.SHARES, 1))]
             for name, field in fields.items()])
        self.write(pictures.draw_fields(fields, shapes), 'erf',
                   *[f'{size[1]}x{size[0]}'] * several)


def main():
    args = parse_args()
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        images = images_in(args.img)[:args.number]
        model = analysis.load_network(cfg, args.checkpoint, args.device)
        chosen = args.view or [
            view for view in VIEWS if view != 'pconv' or any(
                isinstance(m, PartialConv) for m in model.modules())
        ]
        args.out_dir.mkdir(parents=True, exist_ok=True)
        views = Views(model, args.target_layers, args.out_dir)
        stems = [Path(path).stem for path in images]
        for i, path in enumerate(images):
            # images of two folders may have the same name
            again = stems[:i].count(stems[i])
            stem = f'{stems[i]}_{again + 1}' if again else stems[i]
            image = analysis.prepare_image(cfg, model, path)
            if views.names is None:
                views.names = analysis.stage_names(model, image.inputs)
            maps = {name: x[0] for name, x in analysis.feature_maps(
                model, image.inputs, views.names).items()}
            for view in chosen:
                getattr(views, view)(stem, image, maps)
        views.sum_up(len(images))
    print(f'pictures of {len(images)} image(s) in {args.out_dir}')


if __name__ == '__main__':
    main()
