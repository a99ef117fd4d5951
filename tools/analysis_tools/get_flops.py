# SPDX-License-Identifier: Apache-2.0
"""Count the parameters and multiply-accumulates (MACs) of a detector."""

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import cli
from mmfasternet.analysis.complexity import count_complexity
from mmfasternet.analysis.tables import markdown
from mmfasternet.config import load_config

PARTS = ('backbone', 'neck', 'bbox_head')


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--shape', type=cli.positive_int, nargs='+', default=[640, 640],
        help='input image size: height and width, or one number for both')
    parser.add_argument(
        '--train', action='store_true',
        help='count the training form, which is the same network here but '
        'not for every backbone')
    parser.add_argument(
        '--show-arch', action='store_true',
        help='list every module, not only the parts')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if len(args.shape) > 2:
        parser.error(f'--shape takes one or two numbers, got {args.shape}')
    args.shape = args.shape * (3 - len(args.shape))
    return args


def main():
    args = parse_args()
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        counts = count_complexity(cfg, args.shape, args.train)
    shown = {name: counts[name] for name in counts if name and (
        args.show_arch or name in PARTS)}
    shown['total'] = counts['']
    mode = 'train' if args.train else 'eval'
    print(f'{args.config}, input {args.shape[0]}x{args.shape[1]} '
          f'(height x width), batch 1, {mode} mode')
    print(markdown([{
        'module': name, 'parameters': f'{parameters:,}',
        'GMACs': f'{macs / 1e9:.3f}',
        'GFLOPs = 2 x GMACs': f'{2 * macs / 1e9:.3f}'
    } for name, (parameters, macs) in shown.items()]))
    print('MAC: multiply-accumulate of a convolution or a matrix product. '
          'The FasterNet paper and MMDetection print GMACs as "FLOPs", '
          'Ultralytics prints 2 x GMACs.')


if __name__ == '__main__':
    main()
