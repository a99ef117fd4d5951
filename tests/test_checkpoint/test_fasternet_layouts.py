# SPDX-License-Identifier: Apache-2.0
"""Every layout of FasterNet weights that is around loads, or says why not."""
import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import randomise
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from mmfasternet.checkpoint import RELEASES, CheckpointError, digest
from mmfasternet.checkpoint.layouts.fasternet import (
    authors_name,
    find_arch,
    find_tensors,
    read_weights,
    recognise,
    timm_name,
)
from mmfasternet.checkpoint.pretrained import load_weights
from mmfasternet.config import load_config
from mmfasternet.models import FasterNet

NORMS = ('norm2', 'norm4', 'norm6')


@pytest.fixture(scope='module')
def classifier():
    """The tensors of an ImageNet release, with other values."""
    return randomise(FasterNet('t0', num_classes=1000)).state_dict()


@pytest.fixture(scope='module')
def backbone():
    """Those of a dense-prediction backbone with all four norms."""
    return randomise(FasterNet('t0', out_indices=(0, 1, 2, 3))).state_dict()


def prefixed(prefix, tensors, **others):
    return {**{prefix + k: v for k, v in tensors.items()}, **others}


def timm(tensors):
    """timm's names, of its stages as its release spells them."""
    renamed = {}
    for name, value in tensors.items():
        for ours, theirs in (('avgpool_pre_head.1.', 'conv_head.'),
                             ('head.', 'classifier.'),
                             ('stages.1.', 'stages.1.downsample.'),
                             ('stages.2.', 'stages.1.'),
                             ('stages.3.', 'stages.2.downsample.'),
                             ('stages.4.', 'stages.2.'),
                             ('stages.5.', 'stages.3.downsample.'),
                             ('stages.6.', 'stages.3.')):
            if name.startswith(ours):
                name = theirs + name[len(ours):]
                break
        renamed[name] = value
    return renamed


ONE = torch.ones(1)
# name: (what is saved, from the classifier c or the backbone b; its name)
LAYOUTS = {
    'authors': (lambda c, b: c, 'plain keys'),
    'state_dict': (lambda c, b: dict(state_dict=c, epoch=3), 'plain keys'),
    'model': (lambda c, b: dict(model=c, args='x'), 'plain keys'),
    'lightning': (lambda c, b: dict(
        state_dict=prefixed('model.', c), callbacks={}), 'Lightning'),
    'timm': (lambda c, b: timm(c), 'timm layout'),
    'timm training': (lambda c, b: dict(
        state_dict=timm(c), arch='fasternet_t0'), 'timm layout'),
    'detector': (lambda c, b: dict(
        meta={}, state_dict=prefixed('backbone.', b, **{'neck.x': ONE})),
                 'the backbone of a detector'),
    'detector with EMA': (lambda c, b: dict(
        state_dict=prefixed('backbone.', b, **{'neck.x': ONE}),
        ema_state_dict=prefixed(
            'module.backbone.', {k: 0 * v
                                 for k, v in b.items()}, steps=ONE)),
                          'the backbone of a detector'),
    'EMA alone': (lambda c, b: prefixed('module.backbone.', b, steps=ONE),
                  'the backbone of a detector'),
    'mmdet 2 with EMA': (lambda c, b: dict(
        state_dict=prefixed(
            'backbone.', b, ema_backbone_patch_embed_proj_weight=ONE)),
                         'the backbone of a detector'),
    'pasted recipe': (lambda c, b: prefixed('model.0.', b,
                                            **{'model.1.cv1.conv.weight': ONE}
                                            ), 'the recipe pasted'),
}


@pytest.fixture
def log(caplog):
    """What FasterNet reports while it loads."""
    logger = MMLogger.get_current_instance()
    caplog.set_level(logging.INFO)
    logger.addHandler(caplog.handler)
    yield lambda: [
        r for r in caplog.records if 'FasterNet weights' in r.getMessage()
    ]
    logger.removeHandler(caplog.handler)


def pretrained(checkpoint, arch='t0', **kwargs):
    options = {
        k: kwargs.pop(k)
        for k in ('strict', 'prefix', 'sha256') if k in kwargs
    }
    model = FasterNet(
        arch,
        init_cfg=dict(
            type='Pretrained', checkpoint=str(checkpoint), **options),
        **kwargs)
    model.init_weights()
    return model


def assert_equal(model, tensors, skip=()):
    for name, value in model.state_dict().items():
        if not name.startswith(tuple(skip)):
            assert torch.equal(value, tensors[name]), name


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_layout_loads_completely(layout, classifier, backbone, tmp_path,
                                   log):
    make, words = LAYOUTS[layout]
    torch.save(make(classifier, backbone), tmp_path / 'x.pth')
    model = pretrained(tmp_path / 'x.pth')
    dense = 'detector' in layout or layout in ('EMA alone', 'pasted recipe',
                                               'mmdet 2 with EMA')
    assert_equal(
        model, backbone if dense else classifier, () if dense else NORMS)
    record, = log()
    report = record.getMessage()
    # 128 tensors without norms, 3 x 5 more with them
    total = 143 if dense else 128
    assert words in report and f'loaded {total} of {total} tensors' in report
    if dense:
        assert '5 norms of outputs that are not asked for (norm0' in report
    else:
        assert '3 classifier tensors, which a dense-prediction backbone ' \
            'does not use (avgpool_pre_head.1.weight, head.weight, ' \
            'head.bias)' in report
        assert 'norm2, norm4, norm6, which keep their initial values' in \
            report
        assert model.norm2.weight.eq(1).all()
    assert ('norm_cfg=' in report) == (layout == 'pasted recipe')


@pytest.mark.parametrize('order', [('model', 'ema'), ('ema', 'model')])
def test_of_two_models_the_averaged_one_is_taken(order, classifier,
                                                 tmp_path):
    """As Ultralytics does; its own file has both."""
    other = {k: v + 1 for k, v in classifier.items()}
    content = dict(model=other, ema=classifier)
    torch.save({k: content[k] for k in order}, tmp_path / 'x.pt')
    assert_equal(pretrained(tmp_path / 'x.pt'), classifier, NORMS)


def test_safetensors_of_timm_load(classifier, tmp_path):
    safetensors.torch.save_file(timm(classifier), tmp_path / 'm.safetensors')
    assert_equal(pretrained(tmp_path / 'm.safetensors'), classifier, NORMS)


def test_a_file_with_another_hash_than_the_config_says_is_refused(
        classifier, tmp_path):
    torch.save(classifier, tmp_path / 'x.pth')
    right = digest(tmp_path / 'x.pth')
    pretrained(tmp_path / 'x.pth', sha256=right[:8])
    with pytest.raises(CheckpointError, match=f'SHA-256 {right}, expected 0'):
        pretrained(tmp_path / 'x.pth', sha256='0' * 64)


def test_half_precision_and_no_batch_counts(classifier, tmp_path):
    half = {
        k: v.half()
        for k, v in classifier.items() if 'num_batches' not in k
    }
    torch.save(half, tmp_path / 'x.pth')
    model = pretrained(tmp_path / 'x.pth')
    for name, value in model.state_dict().items():
        if name in half and not name.startswith(NORMS):
            assert torch.equal(value, half[name].float())


def test_a_classifier_takes_the_classifier(classifier, tmp_path):
    torch.save(classifier, tmp_path / 'x.pth')
    assert_equal(pretrained(tmp_path / 'x.pth', num_classes=1000), classifier)
    with pytest.raises(CheckpointError, match=r'head.weight: \(1000, 1280\) '
                       r'in the file, \(10, 1280\) in the model'):
        pretrained(tmp_path / 'x.pth', num_classes=10)


def test_fewer_stages_load_what_they_have(classifier, tmp_path, log):
    torch.save(classifier, tmp_path / 'x.pth')
    model = pretrained(tmp_path / 'x.pth', out_indices=(0, 1))
    assert_equal(model, classifier, ('norm0', 'norm2'))
    assert 'stages after the last output (stages.3' in log()[0].getMessage()


def test_the_recipes_eps_needs_no_note_where_it_is_set(backbone, tmp_path,
                                                       log):
    torch.save(prefixed('model.0.', backbone), tmp_path / 'x.pth')
    pretrained(tmp_path / 'x.pth', norm_cfg=dict(type='BN', eps=1e-3))
    assert 'norm_cfg=' not in log()[0].getMessage()


def test_two_backbones_need_a_prefix(backbone, tmp_path):
    torch.save(
        prefixed('student.backbone.', backbone,
                 **prefixed('teacher.backbone.',
                            {k: v + 1 for k, v in backbone.items()})),
        tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='2 FasterNets.*prefix='):
        pretrained(tmp_path / 'x.pth')
    model = pretrained(tmp_path / 'x.pth', prefix='student.backbone')
    assert_equal(model, backbone)
    with pytest.raises(CheckpointError, match="below 'neck.'"):
        pretrained(tmp_path / 'x.pth', prefix='neck')


def without(tensors, *names):
    return {k: v for k, v in tensors.items() if k not in names}


BLOCK = 'stages.4.blocks.7.mlp.3.weight'


@pytest.mark.parametrize('change, words', [
    (lambda c: without(c, BLOCK, 'patch_embed.norm.bias'),
     'only 126 of 128 tensors fit. 2 missing: patch_embed.norm.bias, '
     f'{BLOCK}. strict=False in init_cfg'),
    (lambda c: dict(c, **{BLOCK: torch.ones(80, 80, 1, 1)}),
     fr'only 127 of 128 tensors fit. 1 shapes differ: {BLOCK}: '
     r'\(80, 80, 1, 1\) in the file, \(160, 320, 1, 1\) in the model'),
    # the first three of many
    (lambda c: {k: v[None] if '.blocks.' in k else v for k, v in c.items()},
     r'shapes differ: (stages\.0\.blocks\.0\.\S+: [^;]+; ){2}'
     r'stages\.0\.blocks\.0\.[^;]+ in the model\. strict=False in'),
    (lambda c: dict(c, extra=torch.ones(1)), '1 unexpected: extra'),
    (lambda c: dict(c, **{'stages.0.blocks.0.layer_scale': torch.ones(40)}),
     '1 unexpected: stages.0.blocks.0.layer_scale'),
    (lambda c: dict(c, **{'patch_embed.norm.weight': torch.tensor(
        [float('nan')] * 40)}),
     'NaN, infinity or another kind of number: patch_embed.norm.weight'),
    (lambda c: dict(c, **{'patch_embed.norm.weight': torch.ones(40).int()}),
     'another kind of number: patch_embed.norm.weight'),
    (lambda c: {'conv1.weight': ONE, 'layer1.0.conv1.weight': ONE},
     r'no FasterNet in the checkpoint: none of its 2 tensors is called '
     r'\[prefix\]patch_embed.proj.weight; the first are conv1.weight'),
    (lambda c: dict.fromkeys('abcdef'),
     r'no tensors in the checkpoint \(it has: a, b, c, d, e\)'),
])
def test_what_does_not_fit_is_an_error_and_changes_nothing(
        change, words, classifier, tmp_path):
    torch.save(change(classifier), tmp_path / 'x.pth')
    model = FasterNet(
        't0', init_cfg=dict(
            type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as error:
        model.init_weights()
    assert 'x.pth' in str(error.value)
    assert_equal(model, before)


def test_detector_without_one_of_the_norms(backbone, tmp_path):
    torch.save(
        prefixed('backbone.', without(backbone, 'norm4.weight')),
        tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='1 missing: norm4.weight'):
        pretrained(tmp_path / 'x.pth')


@pytest.mark.parametrize('file, config', [('t2', 't1'), ('t0', 'n')])
def test_the_variant_that_fits_is_named(file, config, tmp_path):
    torch.save(FasterNet(file).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError) as error:
        pretrained(tmp_path / 'x.pth', arch=config)
    message = str(error.value)
    assert f"this file is arch='{file}'" in message
    assert f"the config says arch='{config}'" in message
    assert f"model.backbone.arch='{file}'" in message


def test_strict_false_loads_the_rest_and_says_so(classifier, tmp_path, log):
    torch.save(without(classifier, BLOCK), tmp_path / 'x.pth')
    model = pretrained(tmp_path / 'x.pth', strict=False)
    assert_equal(model, classifier, (BLOCK, *NORMS))
    record, = log()
    assert record.levelno == logging.WARNING
    assert 'loaded 127 of 128 tensors; 1 missing: ' + BLOCK in \
        record.getMessage()
    with pytest.raises(CheckpointError, match='1 missing'):  # by default
        load_weights(model, read_weights(str(tmp_path / 'x.pth')))


# ------------------------------------------------------------ short names
@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('MMFASTERNET_MIRROR', f'file://{tmp_path}')
    return tmp_path


@pytest.mark.parametrize('name', ['fasternet://t0', 'fasternet://auto'])
def test_short_names(name, mirror, classifier):
    torch.save(classifier, mirror / RELEASES['t0']['file'])
    assert_equal(pretrained(name, 't0'), classifier, NORMS)
    other = "this file is arch='t0'" if name == 'fasternet://t0' else \
        RELEASES['l']['file']
    with pytest.raises(CheckpointError, match=other):
        pretrained(name, 'l')


def test_there_are_no_weights_of_n():
    with pytest.raises(CheckpointError, match="no ImageNet weights of "
                       "arch='n'.*pretrained=None"):
        pretrained('fasternet://auto', 'n')


@pytest.mark.parametrize('size, arch', [('s', 't0'), ('m', 't1'),
                                          ('l', 't2'), ('x', 's')])
def test_sizes_start_from_imagenet_by_default(size, arch):
    for options, expected in (({}, 'fasternet://auto'),
                              (dict(pretrained=None), None),
                              (dict(pretrained='a.pth'), 'a.pth')):
        cfg = load_config(f'configs/yolov8_fasternet_{size}.py', options)
        assert cfg.model.backbone.arch == arch
        init_cfg = cfg.model.backbone.init_cfg
        assert (init_cfg.type, init_cfg.checkpoint) == ('Pretrained', expected)
        assert init_cfg.scratch.type == 'Kaiming'
        # ImageNet's, once: the backbone and the pipelines have no other
        assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
        assert cfg.model.data_preprocessor.std == [58.395, 57.12, 57.375]
        assert 'Normalize' not in str(cfg.to_dict())


def test_from_scratch_it_is_kaimings_initialisation():
    """Std sqrt(2 / fan_out) for ReLU, He et al., as MMEngine computes it."""
    for size in 'ns':
        cfg = load_config(f'configs/yolov8_fasternet_{size}.py',
                          dict(pretrained=None))
        init_default_scope('mmyolo')
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
        weight = backbone.stages[6].blocks[0].mlp[0].weight
        expected = (2 / weight.shape[0])**0.5
        # 131,072 or more values: the std is within 2 %
        assert weight.std().item() == pytest.approx(expected, rel=0.02)


def test_no_checkpoint_means_the_published_initialisation():
    torch.manual_seed(0)  # whatever tests before have left
    model = FasterNet(
        't0', init_cfg=dict(type='Pretrained', checkpoint=None))
    model.init_weights()
    weight = model.stages[6].blocks[1].mlp[0].weight  # 204,800 values
    assert weight.std().item() == pytest.approx(0.02, rel=0.01)


def test_a_config_that_inherits_ours_may_name_a_checkpoint(
        classifier, tmp_path):
    torch.save(classifier, tmp_path / 't0.pth')
    base = Path('configs/yolov8_fasternet_n.py').resolve()
    mine = tmp_path / 'mine.py'
    mine.write_text(f'''_base_ = {str(base)!r}
model = dict(backbone=dict(arch='t0', init_cfg=dict(
    type='Pretrained', checkpoint={str(tmp_path / "t0.pth")!r})))
''')
    init_default_scope('mmyolo')
    backbone = MODELS.build(load_config(str(mine)).model.backbone)
    backbone.init_weights()
    assert_equal(backbone, classifier, NORMS)


def test_one_option_switches_n_to_pretrained(backbone, tmp_path, classifier):
    torch.save(classifier, tmp_path / 't0.pth')
    init_default_scope('mmyolo')
    cfg = load_config(
        'configs/yolov8_fasternet_n.py', {
            'pretrained': str(tmp_path / 't0.pth'),
            'model.backbone.arch': 't0'
        })
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    assert_equal(detector.backbone, classifier, NORMS)


# ------------------------------------------------------------ names
def test_names_go_there_and_back(classifier):
    renamed = {timm_name(name): name for name in classifier}
    assert {
        k: classifier[v]
        for k, v in renamed.items()
    }.keys() == timm(classifier).keys()
    assert all(authors_name(k) == v for k, v in renamed.items())


@pytest.mark.parametrize('arch', FasterNet.arch_settings)
def test_the_variant_is_read_off_the_shapes(arch):
    with torch.device('meta'):
        tensors = FasterNet(arch).state_dict()
    setting = FasterNet.arch_settings[arch]
    for spelling in (tensors, timm(tensors)):
        assert find_arch(recognise(spelling).tensors) == (
            setting['embed_dim'], setting['depths'])


def test_tensors_are_found_in_modules():
    """As Ultralytics pickles them; the state dict is the reference."""
    model = randomise(FasterNet(dict(embed_dim=8, depths=(1, 1, 1, 1))))
    model.register_buffer('cache', ONE, persistent=False)
    found = find_tensors(dict(model=model, ema=None))
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert_equal(model, found)
