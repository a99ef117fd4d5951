# SPDX-License-Identifier: Apache-2.0
"""Convert FasterNet weights between the authors' layout, timm's and ours.

SRC is a path, a URL or a short name (fasternet://t0) of any layout that the
backbone can load; of a detector only its FasterNet is taken. No value is
changed, so converting back gives the same bits.
"""

from mmfasternet import __version__, cli
from mmfasternet.checkpoint import save_checkpoint
from mmfasternet.checkpoint.layouts.fasternet import (
    arch_name,
    find_arch,
    read_weights,
    timm_name,
)


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('src', help='source: path, URL or short name')
    parser.add_argument(
        'dst', help='destination: .pth, or .safetensors for plain tensors')
    parser.add_argument(
        '--to',
        choices=['authors', 'timm', 'mmfasternet'],
        default='mmfasternet',
        help='authors, timm: plain tensors in that layout. mmfasternet: a '
        'checkpoint of MMEngine whose `backbone.` they are, for '
        'tools/test.py and load_from (default)')
    parser.add_argument(
        '--prefix', help='what stands before FasterNet in SRC, if it is not '
        'found')
    return parser.parse_args()


def main():
    args = parse_args()
    with cli.clear_errors():
        if args.dst.endswith('.safetensors') and args.to == 'mmfasternet':
            raise ValueError('safetensors holds plain tensors: --to authors '
                             'or --to timm, or a name that ends in .pth')
        cli.require_output(args.dst, args.src)
        found = read_weights(args.src, args.prefix)
        tensors, dropped = found.tensors, []
        if args.to == 'timm':
            # timm normalises no outputs
            dropped = [k for k in tensors if k.startswith('norm')]
            tensors = {
                timm_name(k): v
                for k, v in tensors.items() if k not in dropped
            }
        data = tensors
        if args.to == 'mmfasternet':
            data = dict(
                meta=dict(mmfasternet_version=__version__),
                state_dict={f'backbone.{k}': v
                            for k, v in tensors.items()})
        save_checkpoint(data, args.dst)
    arch = find_arch(found.tensors)
    arch = arch_name(arch) or arch
    print(f'{args.src}: {found.describe()}, FasterNet-{arch}')
    if dropped:
        print(f'left out, timm has no output norms: {", ".join(dropped)}')
    print(f'{args.dst}: {len(tensors)} tensors, {args.to} layout')


if __name__ == '__main__':
    main()
