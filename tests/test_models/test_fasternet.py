# SPDX-License-Identifier: Apache-2.0
import copy
import io
import pickle
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from conftest import randomise
from mmengine.registry import MODELS, DefaultScope
from torch.utils.flop_counter import FlopCounterMode

from mmfasternet.compat import import_timm
from mmfasternet.models import FasterNet, PartialConv

# Paper, Tables 3, 6 and 8: embed_dim, depths, parameters with the classifier
# (exact counts agree with timm), parameters with four output norms instead,
# and multiply-accumulates at 224 of the convolutions and the classifier.
PUBLISHED = {
    't0': (40, (1, 2, 8, 2), 3_905_500, 2_216_100, 0.34),
    't1': (64, (1, 2, 8, 2), 7_595_368, 5_660_928, 0.85),
    't2': (96, (1, 2, 8, 2), 14_982_888, 12_721_728, 1.90),
    's': (128, (1, 2, 13, 2), 31_181_032, 28_593_152, 4.55),
    'm': (144, (3, 4, 18, 3), 53_521_464, 50_770_224, 8.72),
    'l': (192, (3, 4, 18, 3), 93_465_192, 90_223_872, 15.49),
}
ARCHS = list(FasterNet.arch_settings)
TINY = dict(embed_dim=8, depths=(1, 1, 2, 1))


def count(model):
    return sum(p.numel() for p in model.parameters())


def tiny(**kwargs):
    torch.manual_seed(0)
    return FasterNet(TINY, **kwargs)


@pytest.mark.parametrize('arch', PUBLISHED)
def test_published_size(arch):
    embed_dim, depths, with_classifier, with_norms, gmacs = PUBLISHED[arch]
    with torch.device('meta'):
        classifier = FasterNet(arch, num_classes=1000).eval()
        backbone = FasterNet(arch, out_indices=(0, 1, 2, 3))
        counter = FlopCounterMode(display=False)
        with counter:
            logits = classifier(torch.zeros(1, 3, 224, 224))
    assert count(classifier) == with_classifier
    assert count(backbone) == with_norms
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.01)
    assert logits.shape == (1, 1000)
    assert backbone.width_list == [embed_dim * k for k in (1, 2, 4, 8)]
    assert tuple(len(s.blocks) for s in backbone.stages[::2]) == depths


@pytest.mark.parametrize('arch', ARCHS)
def test_outputs_have_the_announced_shapes(arch):
    with torch.device('meta'):
        model = FasterNet(arch, out_indices=(0, 1, 2, 3))
        outs = model(torch.zeros(2, 3, 100, 132))
    for out, channels, stride in zip(outs, model.out_channels,
                                     model.out_strides):
        assert out.shape == (2, channels, 100 // stride, 132 // stride)
    assert model.out_strides == (4, 8, 16, 32)


@pytest.mark.parametrize('size, stride', [(6, 4), (7, 4), (8, 4), (4, 4)])
def test_patches_may_overlap(size, stride):
    """A place of the stem sees ``size`` pixels a side around its own four."""
    model = FasterNet('n', patch_size=size, patch_size2=3,
                      out_indices=(0, 1, 2, 3)).eval()
    image = torch.rand(1, 3, 64, 96, requires_grad=True)
    model.patch_embed(image)[0, :, 5, 7].sum().backward()
    seen = image.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    before = (size - stride + 1) // 2
    assert rows.flatten().tolist() == list(
        range(5 * stride - before, 5 * stride - before + size))
    assert columns[0] == 7 * stride - before and len(columns) == size
    for out, stride in zip(model(image), model.out_strides):
        assert out.shape[2:] == (64 // stride, 96 // stride)


def test_the_small_variant_is_smaller_than_t0():
    with torch.device('meta'):
        small, t0 = (FasterNet(arch, num_classes=1000) for arch in ('n', 't0'))
    assert count(small) == 2_426_984 < count(t0)


def test_activations_and_drop_path_are_the_published_ones():
    for arch, act, rate in (('t0', 'GELU', 0.), ('t1', 'GELU', 0.02),
                            ('t2', 'ReLU', 0.05), ('s', 'ReLU', 0.1),
                            ('m', 'ReLU', 0.2), ('l', 'ReLU', 0.3),
                            ('n', 'ReLU', 0.), (TINY, 'ReLU', 0.)):
        with torch.device('meta'):
            blocks = [
                block for stage in FasterNet(arch).stages[::2]
                for block in stage.blocks
            ]
        assert type(blocks[0].mlp[2]).__name__ == act
        rates = [getattr(b.drop_path, 'drop_prob', 0.) for b in blocks]
        expected = [rate * i / (len(blocks) - 1) for i in range(len(blocks))]
        # the rates come from a float32 linspace
        assert rates == pytest.approx(expected, abs=1e-6)


def test_state_dict_keys_are_the_authors():
    block = [
        'spatial_mixing.partial_conv3.weight', 'mlp.0.weight', 'mlp.1.weight',
        'mlp.1.bias', 'mlp.1.running_mean', 'mlp.1.running_var',
        'mlp.1.num_batches_tracked', 'mlp.3.weight'
    ]
    norm = [key[6:] for key in block if key.startswith('mlp.1.')]
    keys = ['patch_embed.proj.weight', *(f'patch_embed.norm.{k}'
                                         for k in norm)]
    for stage, depth in enumerate(TINY['depths']):
        keys += [
            f'stages.{2 * stage}.blocks.{i}.{k}' for i in range(depth)
            for k in block
        ]
        keys += [f'norm{2 * stage}.{k}' for k in norm]
        if stage:
            keys += [f'stages.{2 * stage - 1}.reduction.weight']
            keys += [f'stages.{2 * stage - 1}.norm.{k}' for k in norm]
    assert set(tiny(out_indices=(0, 1, 2, 3)).state_dict()) == set(keys)
    classifier = set(tiny(num_classes=5).state_dict())
    assert {'avgpool_pre_head.1.weight', 'head.weight',
            'head.bias'} == classifier - set(keys)


@pytest.mark.parametrize('n_div', [1, 2, 4, 8, 16])
def test_partial_conv_is_a_dense_conv_with_an_identity_block(n_div):
    torch.manual_seed(0)
    dim = 16
    conv = PartialConv(dim, n_div).double()
    x = torch.randn(2, dim, 7, 9, dtype=torch.double)
    before = x.clone()
    dense = torch.zeros(dim, dim, 3, 3, dtype=torch.double)
    dense[range(dim), range(dim), 1, 1] = 1
    width = dim // n_div
    dense[:width, :width] = conv.partial_conv3.weight.detach()
    torch.testing.assert_close(conv(x), F.conv2d(x, dense, padding=1))
    assert torch.equal(x, before)
    # the paper's other formulation, on a copy, gives the same bits
    x[:, :width] = conv.partial_conv3(x[:, :width])
    assert torch.equal(conv(before), x)


@pytest.mark.parametrize('n_div', [0, -1, 17])
def test_partial_conv_refuses_a_ratio_without_channels(n_div):
    with pytest.raises(ValueError, match='n_div.*16'):
        PartialConv(16, n_div)


@pytest.mark.parametrize('arch, error, words', [
    ('t3', ValueError, 't0, t1, t2, s, m, l'),
    (7, TypeError, 'str or a dict'),
    (dict(embed_dim=8, depth=(1, 1, 1, 1)), ValueError,
     r"unknown: \['depth'\], missing: \['depths'\]"),
    (dict(embed_dim=8, depths=(1, 1, 1)), ValueError, 'four positive ints'),
    (dict(embed_dim=8, depths=(1, 1, 1, 0)), ValueError, 'four positive ints'),
    (dict(embed_dim=8, depths=(1, 1, 1.5, 1)), ValueError, 'four positive'),
])
def test_wrong_arch(arch, error, words):
    with pytest.raises(error, match=words):
        FasterNet(arch)


@pytest.mark.parametrize('kwargs, error', [
    (dict(out_indices=(1, 4)), ValueError),
    (dict(out_indices=(2, 1)), ValueError),
    (dict(out_indices=()), ValueError),
    (dict(out_indices=3), TypeError),
    (dict(out_indices=('1', )), TypeError),
    (dict(out_indices=(1, 1)), ValueError),
    (dict(out_indices=(-1, 1)), ValueError),
    (dict(frozen_stages=-2), ValueError),
    (dict(frozen_stages=5), ValueError),
    (dict(depth=3), TypeError),
])
def test_wrong_arguments_are_refused(kwargs, error):
    with pytest.raises(error, match=next(iter(kwargs))):
        FasterNet(TINY, **kwargs)


@pytest.mark.parametrize('out_indices', [(0, ), (1, 2), (0, 3), (1, 2, 3)])
@pytest.mark.parametrize('kwargs', [
    dict(),
    dict(norm_cfg=dict(type='GN', num_groups=2)),
    dict(norm_cfg=None, act_cfg=dict(type='SiLU')),
    dict(in_channels=12, layer_scale_init_value=0.1, drop_path_rate=0.),
])
def test_every_parameter_gets_a_gradient(out_indices, kwargs):
    indices = list(out_indices)
    model = tiny(out_indices=indices, **kwargs)
    assert indices == list(out_indices)
    outs = model(torch.rand(2, kwargs.get('in_channels', 3), 64, 96))
    assert len(outs) == len(out_indices)
    sum(out.square().sum() for out in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_without_output_norms():
    model = randomise(tiny()).eval()
    plain = tiny(output_norm=False).eval()
    report = plain.load_state_dict(model.state_dict(), strict=False)
    assert report.missing_keys == []
    assert {name.split('.')[0] for name in report.unexpected_keys
            } == {'norm2', 'norm4', 'norm6'}
    x = torch.rand(1, 3, 64, 96)
    for name, expected, raw in zip(('norm2', 'norm4', 'norm6'), model(x),
                                   plain(x)):
        norm = getattr(model, name)
        torch.testing.assert_close(
            F.batch_norm(raw, norm.running_mean, norm.running_var, norm.weight,
                         norm.bias), expected)


def blocks_of(model):
    return [block for stage in model.stages[::2] for block in stage.blocks]


@pytest.mark.parametrize('scale', [0., 0.1])
def test_drop_path_drops_the_branch_of_whole_samples(scale):
    """At a rate of a half a sample is x, or x plus twice its branch."""
    torch.manual_seed(0)
    block = blocks_of(tiny(drop_path_rate=0.5,
                           layer_scale_init_value=scale))[-1].train()
    x = torch.randn(64, 64, 3, 5)
    out = block(x)
    branch = block.mlp(block.spatial_mixing(x)) * (scale or 1)
    kept = (out != x).flatten(1).any(1)
    assert 10 < kept.sum() < 54  # of 64; five sigma
    torch.testing.assert_close(out[kept], (x + 2 * branch)[kept])
    assert torch.equal(out[~kept], x[~kept])
    torch.testing.assert_close(block.eval()(x), x + block.mlp(
        block.spatial_mixing(x)) * (scale or 1))


def test_layer_scale_begins_as_asked_and_scales_the_branch():
    model = tiny(layer_scale_init_value=0.1).eval()
    for block in blocks_of(model):
        assert block.layer_scale.shape == block.mlp[3].weight.shape[:1]
        assert block.layer_scale.eq(0.1).all()
    x = torch.randn(2, 8, 6, 4)
    block = blocks_of(model)[0]
    torch.testing.assert_close(
        block(x), x + 0.1 * block.mlp(block.spatial_mixing(x)))
    assert all(b.layer_scale is None for b in blocks_of(tiny()))


@pytest.mark.parametrize('argument, value, expected', [
    (dict(n_div=2), lambda m: [
        b.spatial_mixing.partial_conv3.weight.shape[0]
        for b in blocks_of(m)], [4, 8, 16, 16, 32]),
    (dict(mlp_ratio=3), lambda m: [
        b.mlp[0].weight.shape[0] for b in blocks_of(m)],
     [24, 48, 96, 96, 192]),
    (dict(patch_stride=2), lambda m: m.out_strides, (4, 8, 16)),
    (dict(patch_stride2=4, patch_size2=4), lambda m: m.out_strides,
     (16, 64, 256)),
    (dict(drop_path_rate=0.4), lambda m: [
        getattr(b.drop_path, 'drop_prob', 0.) for b in blocks_of(m)],
     pytest.approx([0, 0.1, 0.2, 0.3, 0.4])),
    (dict(act_cfg=dict(type='SiLU')), lambda m: {
        type(b.mlp[2]).__name__ for b in blocks_of(m)}, {'SiLU'}),
    (dict(norm_cfg=dict(type='BN', eps=0.25)), lambda m: {
        n.eps for n in m.modules() if isinstance(n, torch.nn.BatchNorm2d)},
     {0.25}),
    (dict(norm_cfg=None), lambda m: [
        k for k in m.state_dict() if 'norm' in k or 'mlp.1' in k], []),
    (dict(num_classes=5, feature_dim=7), lambda m: (
        m.head.weight.shape, m.avgpool_pre_head[1].weight.shape),
     ((5, 7), (7, 64, 1, 1))),
    (dict(in_channels=5), lambda m: m.patch_embed.proj.weight.shape[1], 5),
])
def test_an_argument_changes_what_it_names(argument, value, expected):
    """Of five blocks of 8, 16, 32, 32 and 64 channels."""
    assert value(tiny(**argument)) == expected
    assert value(tiny(num_classes=int('feature_dim' in argument))) != expected
    if 'stride' in str(argument):
        model = tiny(**argument)
        for out, stride in zip(model(torch.rand(1, 3, 256, 512)), expected):
            assert out.shape[2:] == (256 // stride, 512 // stride)


def test_checkpointing_runs_each_block_again():
    """In the backward pass, in training only."""
    for with_cp, runs in ((False, 1), (True, 2)):
        model, seen = tiny(with_cp=with_cp), []
        for i, block in enumerate(blocks_of(model)):
            block.mlp[0].register_forward_hook(
                lambda *args, i=i, seen=seen: seen.append(i))
        sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
        assert sorted(seen) == sorted(list(range(5)) * runs)
        seen.clear()
        model.eval()(torch.rand(2, 3, 64, 64))
        assert seen == list(range(5))


def test_checkpointing_changes_nothing_but_memory():
    x = torch.rand(2, 3, 64, 64)
    results = []
    for with_cp in (False, True):
        model = tiny(with_cp=with_cp).train()
        outs = model(x)
        sum(out.square().sum() for out in outs).backward()
        results.append((outs, [p.grad for p in model.parameters()],
                        dict(model.named_buffers())))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_frozen_stages_and_norm_eval():
    model = tiny(frozen_stages=2)
    before = copy.deepcopy(model.state_dict())
    assert model.train() is model
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1.)
    sum(out.sum() + out.square().sum()
        for out in model(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    # the merging layer after stage 2 (position 3) is trained again
    frozen = ('patch_embed', 'stages.0.', 'stages.1.', 'stages.2.', 'norm2')
    for name, value in model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == name.startswith(frozen), name

    model = tiny(norm_eval=True).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    model(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(
        dict(model.named_buffers()), before, rtol=0, atol=0)
    assert model.stages[0].training
    assert not any(p.requires_grad for p in tiny(
        frozen_stages=4).parameters())


@pytest.mark.parametrize('stages, parts', [
    (-1, []),
    (0, ['patch_embed']),
    (1, ['patch_embed', 'stages.0', 'norm0']),
    (2, ['patch_embed', 'stages.0', 'stages.1', 'stages.2', 'norm0',
         'norm2']),
])
def test_a_number_of_frozen_stages(stages, parts):
    """The stem counts as none; a stage has the merging layer before it."""
    model = tiny(frozen_stages=stages, out_indices=(0, 1, 2, 3)).train()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(tuple(f'{part}.' for part in parts))
        assert parameter.requires_grad != frozen, name
    for name, module in model.named_modules():
        if name:
            frozen = f'{name}.'.startswith(tuple(f'{p}.' for p in parts))
            assert module.training != frozen, name


def test_a_classifier_is_frozen_without_output_norms():
    model = tiny(frozen_stages=2, num_classes=5).train()
    assert not model.patch_embed.training and not model.stages[2].training
    assert {name.split('.')[0] for name, p in model.named_parameters()
            if p.requires_grad} == {'stages', 'avgpool_pre_head', 'head'}


def test_construction_leaves_the_random_state_to_the_weights():
    """No forward pass: batch statistics are untouched, meta device works."""
    model = tiny()
    assert all(value == 0 for name, value in model.named_buffers()
               if name.endswith('num_batches_tracked'))
    with torch.device('meta'):
        state = torch.get_rng_state()
        FasterNet('l', in_channels=1)
        assert torch.equal(torch.get_rng_state(), state)


def test_copies_are_independent_and_equal():
    model = randomise(tiny()).eval()
    x = torch.rand(1, 3, 64, 64)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    copies.append(tiny().eval())
    copies[-1].load_state_dict(torch.load(buffer, weights_only=True))
    expected = model(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    for other in copies:
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


def test_compile_and_export():
    model = randomise(tiny()).eval()
    x = torch.rand(2, 3, 64, 96)
    expected = model(x)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    exported = torch.export.export(model, (x, )).module()
    torch.testing.assert_close(exported(x), expected)


def test_init_is_the_published_one():
    model = FasterNet('t0', num_classes=10)
    model.init_weights()
    weight = model.stages[6].blocks[0].mlp[0].weight
    # the spread of a sample of 204,800 is within 0.2 % of the true one
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.bias.abs().max() == 0
    assert (model.patch_embed.norm.weight == 1).all()


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmyolo'])
def test_builds_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type='mmfasternet.FasterNet', arch=TINY))
    assert isinstance(model, FasterNet)


@pytest.mark.parametrize('channels, expected', [(1, 3), (4, 3), (3, 1)])
def test_images_of_other_channels_are_named(channels, expected):
    model = tiny(in_channels=expected)
    with pytest.raises(ValueError, match=f'images have {channels} channels, '
                       f'but model.backbone.in_channels is {expected}'):
        model(torch.rand(1, channels, 32, 32))


def timm_name(name):
    """timm counts a stage with the merging layer before it as one."""
    head = {'avgpool_pre_head.1': 'conv_head', 'head': 'classifier'}
    for ours, theirs in head.items():
        if name.startswith(f'{ours}.'):
            return name.replace(ours, theirs, 1)
    if name.startswith('stages.'):
        _, position, rest = name.split('.', 2)
        stage, merging = (int(position) + 1) // 2, int(position) % 2
        return f'stages.{stage}.{"downsample." * merging}{rest}'
    return name


@pytest.mark.parametrize('arch', PUBLISHED)
def test_equals_timm(arch):
    if find_spec('timm') is None:
        pytest.skip('the independent implementation: pip install --no-deps '
                    'timm')
    timm = import_timm()
    torch.manual_seed(0)
    model = randomise(
        FasterNet(arch, num_classes=1000, drop_path_rate=0.)).double()
    reference = timm.create_model(
        f'fasternet_{arch}', drop_path_rate=0.).double()
    reference.load_state_dict(
        {timm_name(k): v for k, v in model.state_dict().items()})
    x = torch.rand(2, 3, 32, 64, dtype=torch.double)
    outs = []
    for net, rename in ((model, timm_name), (reference, str)):
        out = net.train()(x)
        out.square().mean().backward()
        outs.append((out,
                     {rename(k): p.grad for k, p in net.named_parameters()},
                     {rename(k): v for k, v in net.named_buffers()}))
    torch.testing.assert_close(*outs)
