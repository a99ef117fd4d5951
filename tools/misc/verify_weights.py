# SPDX-License-Identifier: Apache-2.0
"""Say what a file of FasterNet weights is: a certificate.

Variant, layout, hash, counts measured on the loaded network, and for an
ImageNet classifier its outputs against the published classifier as timm
implements it, independently, if timm is installed.
"""

import torch

from mmfasternet import cli
from mmfasternet.analysis.complexity import count
from mmfasternet.checkpoint import (
    RELEASES,
    SCHEME,
    CheckpointError,
    checkpoint_path,
    digest,
)
from mmfasternet.checkpoint.layouts.fasternet import (
    arch_name,
    find_arch,
    read_weights,
    timm_name,
)
from mmfasternet.checkpoint.pretrained import load_weights
from mmfasternet.compat import import_timm
from mmfasternet.models import FasterNet

# Float32 rounding through at most 60 layers, for logits of a few units; a
# wrong tensor changes them by whole units.
TOLERANCE = 1e-3


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('file', help='path, URL or short name (fasternet://t0)')
    parser.add_argument(
        '--prefix', help='what stands before FasterNet in the file, if it is '
        'not found')
    return parser.parse_args()


def build(found):
    """The network that the file holds, with its weights, and its name."""
    arch = find_arch(found.tensors)
    name = arch_name(arch)
    if name is None:
        raise CheckpointError(
            f'embed_dim={arch[0]}, depths={arch[1]} is none of the variants '
            f'{", ".join(FasterNet.arch_settings)}')
    if 'head.weight' in found.tensors:
        classes, dim = found.tensors['head.weight'].shape
        model = FasterNet(name, num_classes=classes, feature_dim=dim)
    else:
        norms = tuple(i for i in range(4)
                      if f'norm{2 * i}.weight' in found.tensors)
        model = FasterNet(name, out_indices=norms or (len(arch[1]) - 1, ))
    return model.eval(), name, load_weights(model, found)


def compare_with_timm(model, name, found):
    """Largest difference of the logits of a fixed image."""
    try:
        timm = import_timm()
        reference = timm.create_model(
            f'fasternet_{name}', num_classes=model.num_classes).eval()
    except ImportError as error:
        return f'not compared, timm cannot be imported ({error})'
    reference.load_state_dict(
        {timm_name(k): v for k, v in found.tensors.items()}, strict=True)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 224, 224, generator=generator)
    with torch.no_grad():
        ours, theirs = model(image), reference(image)
    error = (ours - theirs).abs().max().item()
    if not error <= TOLERANCE * max(1, theirs.abs().max().item()):
        raise CheckpointError(f'the logits differ from timm by {error:.2e}')
    return f'equal to timm {timm.__version__} within {error:.1e}'


def main():
    args = parse_args()
    with cli.clear_errors():
        found = read_weights(args.file, args.prefix)
        model, name, report = build(found)
        sha256 = digest(checkpoint_path(args.file))
        parameters, macs = count(model, (1, 3, 224, 224))['']
        rows = {
            'file': args.file,
            'variant': f'FasterNet-{name}',
            'layout': found.describe(),
            'tensors': report.split(': ', 1)[1],
            'sha256': sha256,
            'parameters': f'{parameters:,}',
            'GMACs at 224': f'{macs / 1e9:.2f}'
        }
        release = RELEASES.get(name)
        if release and model.num_classes == 1000:
            rows['logits'] = compare_with_timm(model, name, found)
            published = release['file'].split('acc1.')[1].rsplit('.', 1)[0]
            rows['published top-1'] = f'{float(published):.3f} %, of ' \
                f'{SCHEME}{name}; not measured here'
            known = release.get('sha256')
            if known:
                rows['release'] = f'this is the file of {SCHEME}{name}' if \
                    sha256 == known else f'not {SCHEME}{name}, whose ' \
                    f'SHA-256 is {known}'
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f'{key:{width}}  {value}')


if __name__ == '__main__':
    main()
