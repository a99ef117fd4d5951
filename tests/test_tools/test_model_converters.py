# SPDX-License-Identifier: GPL-3.0-only
"""The converters as a user runs them."""
import copy
import hashlib
import re
import runpy
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import randomise
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmfasternet import __version__
from mmfasternet.config import load_config
from mmfasternet.models import FasterNet

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402

CONVERTERS = 'tools/model_converters/'


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool in this process; returns what it printed."""

    def call(path, *arguments):
        monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
        runpy.run_path(path, run_name='__main__')
        return capsys.readouterr().out

    return call


def assert_same_bits(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


# ------------------------------------------------------------ backbones
@pytest.mark.parametrize('route', [
    ('timm', 'authors'), ('mmfasternet', 'authors'),
    ('timm', 'mmfasternet', 'timm', 'authors')
])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_backbone_round_trips_are_bit_exact(route, suffix, tool, tmp_path):
    tensors = FasterNet('t0', num_classes=1000).state_dict()
    source = tmp_path / 'authors.pth'
    torch.save(tensors, source)
    for i, layout in enumerate(route):
        plain = 'pth' if layout == 'mmfasternet' else suffix
        target = tmp_path / f'{i}.{plain}'
        out = tool(CONVERTERS + 'convert_backbone.py', source, target, '--to',
                   layout)
        assert f'131 tensors, {layout} layout' in out
        assert 'FasterNet-t0' in out
        source = target
    if suffix == 'safetensors':
        back = safetensors.torch.load_file(source)
        back = {name: back[name] for name in tensors}  # it sorts them
    else:
        back = torch.load(source, weights_only=True)
    assert_same_bits(tensors, back)


def test_the_backbone_of_a_detector_goes_to_timm_without_its_norms(
        tool, tmp_path):
    tensors = FasterNet('n').state_dict()
    torch.save(
        dict(state_dict={f'backbone.{k}': v
                         for k, v in tensors.items()}), tmp_path / 'd.pth')
    out = tool(CONVERTERS + 'convert_backbone.py', tmp_path / 'd.pth',
               tmp_path / 't.pth', '--to', 'timm')
    assert 'left out, timm has no output norms: norm2.weight' in out
    written = torch.load(tmp_path / 't.pth', weights_only=True)
    assert len(written) == len(tensors) - 15
    assert torch.equal(written['stages.3.downsample.reduction.weight'],
                       tensors['stages.5.reduction.weight'])


# ------------------------------------------------------------ the recipe
@pytest.fixture(scope='module')
def pasted():
    """A model of the recipe, with the variant switched to T1."""
    torch.manual_seed(0)
    backbone = FasterNet('t1', out_indices=(0, 1, 2, 3))
    return randomise(
        reference.YOLOv8([backbone], backbone.out_channels[1:], 3)).eval()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'yolov8n-fasternet.yaml'
    path.write_text(reference.RECIPE)
    return path


def save_as_ultralytics(model, path, monkeypatch):
    """Pickle whole modules, of classes that exist nowhere when it is read."""
    for name in ('ultralytics', 'ultralytics.nn', 'ultralytics.nn.modules'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, cls in vars(reference).items():
        if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
            monkeypatch.setattr(cls, '__module__', 'ultralytics.nn.modules')
            setattr(sys.modules['ultralytics.nn.modules'], name, cls)
    # the recipe binds methods to instances
    model.model[0].forward = model.model[0].forward
    torch.save(dict(epoch=3, model=None, ema=model), path)
    del model.model[0].forward
    monkeypatch.undo()


@pytest.mark.parametrize('form', ['state dict', 'whole modules'])
def test_recipe_and_weights_give_equal_outputs(form, pasted, recipe, tool,
                                               tmp_path, monkeypatch):
    weights = tmp_path / 'best.pt'
    if form == 'state dict':
        torch.save(pasted.state_dict(), weights)
    else:
        save_as_ultralytics(pasted, weights, monkeypatch)
    config, checkpoint = tmp_path / 'mine.py', tmp_path / 'mine.pth'
    out = tool(CONVERTERS + 'import_recipe.py', recipe, config, '--weights',
               weights, '--classes', 'cat', 'dog', 'bird')
    assert 'FasterNet-t1 at scale n, 3 classes' in out
    out = tool(CONVERTERS + 'convert_detector.py', weights, config,
               checkpoint)
    assert '347 of 347 tensors' in out

    init_default_scope('mmyolo')
    detector = MODELS.build(load_config(str(config)).model)
    load_checkpoint(detector, str(checkpoint), strict=True)
    detector.eval()
    meta = torch.load(checkpoint, weights_only=True)['meta']
    assert tuple(meta['dataset_meta']['classes']) == ('cat', 'dog', 'bird')

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (2, 3, 96, 128), dtype=torch.uint8, generator=generator)
    size = dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1, 1))
    data = detector.data_preprocessor(
        dict(
            inputs=list(images),
            data_samples=[DetDataSample(metainfo=size) for _ in images]))
    # images come as BGR; the recipe gets RGB in 0..1
    torch.testing.assert_close(data['inputs'], images[:, [2, 1, 0]] / 255)
    inputs = data['inputs'].double()
    with torch.no_grad():
        boxes, scores = copy.deepcopy(pasted).double()(inputs)
        cls_scores, sides, *_ = detector.double().bbox_head(
            detector.extract_feat(inputs))
    assert scores.std() > 0.05  # not saturated, or anything would be equal
    cls_scores, sides = (
        torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        for levels in (cls_scores, sides))
    # double precision; eps 1e-5 in the backbone would differ by 2e-5
    torch.testing.assert_close(
        cls_scores.sigmoid(), scores, rtol=0, atol=1e-10)
    priors = detector.bbox_head.prior_generator.grid_priors(
        [(12, 16), (6, 8), (3, 4)], device='cpu', with_stride=True)
    priors = torch.cat(priors)
    ours = detector.bbox_head.bbox_coder.decode(priors[:, :2], sides,
                                                priors[:, 2])
    torch.testing.assert_close(ours, boxes, rtol=0, atol=1e-8)  # pixels


@pytest.mark.parametrize('scale, widths', [
    ('n', (64, 128, 256)), ('s', (128, 256, 512)), ('m', (192, 384, 576)),
    ('l', (256, 512, 512)), ('x', (320, 640, 640))
])
def test_every_scale_of_the_recipe(scale, widths, tool, recipe, tmp_path):
    """Source default T2 at every scale: parameters as in the cost table.

    The table has all four output norms and Ultralytics' constant DFL weight:
    15.34 M at n, ... 51.08 M at x, both rounded.
    """
    total = dict(n=15.34, s=19.93, m=27.95, l=37.61, x=51.08)[scale]
    recipe.write_text(reference.RECIPE.replace('nc: 3', 'nc: 80'))
    config = tmp_path / 'mine.py'
    tool(CONVERTERS + 'import_recipe.py', recipe, config, '--scale', scale)
    cfg = load_config(str(config), {'model.backbone.out_indices': [1, 2, 3]})
    assert cfg.model.backbone.arch == 't2'
    init_default_scope('mmyolo')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    parameters = sum(p.numel() for p in model.parameters()) + 2 * 96 + 16
    assert parameters / 1e6 == pytest.approx(total, abs=0.005)
    assert tuple(model.bbox_head.head_module.in_channels) == widths


def edit(old, new):
    text = reference.RECIPE.replace(old, new)
    assert text != reference.RECIPE
    return text


@pytest.mark.parametrize('text, words', [
    ('- a\n- b\n', 'is not a model of Ultralytics'),
    ('nc: [', 'is not YAML'),
    (edit('FasterNet', 'C2f'), 'expected FasterNet and 14 layers'),
    (edit('[[-1, 5], 1, Concat', '[[-1, 4], 1, Concat'),
     r'entry 16 should be Concat of \[-1, 5\] \(down5 sppf\), got Concat of '
     r'\[-1, 4\]'),
    (edit('[-1, 3, C2f, [256]]', '[-1, 3, C3, [256]]'),
     r'entry 11 should be C2f of \[-1\] \(cat3\), got C3'),
    (edit('[-1, 3, C2f, [256]]', '[-1, 3, C2f, [256, True]]'),
     r'entry 11, C2f, has the arguments \[256, True\]'),
    (edit('SPPF, [1024, 5]', 'SPPF, [512, 5]'),
     'sppf has 512 channels where YOLOv8 has .* 1024'),
    (edit('[-1, 3, C2f, [256]]', '[-1, 6, C2f, [256]]'),
     r'different numbers of repeats, \[3, 6\]'),
])
def test_another_yaml_is_refused(text, words, tool, recipe, tmp_path, capsys):
    recipe.write_text(text)
    with pytest.raises(SystemExit, match=words):
        tool(CONVERTERS + 'import_recipe.py', recipe, tmp_path / 'mine.py')
    assert not (tmp_path / 'mine.py').exists()


def test_import_does_not_overwrite(tool, recipe, tmp_path):
    (tmp_path / 'mine.py').write_text('precious')
    with pytest.raises(SystemExit, match='exists'):
        tool(CONVERTERS + 'import_recipe.py', recipe, tmp_path / 'mine.py')
    assert (tmp_path / 'mine.py').read_text() == 'precious'


def test_weights_of_another_variant_are_refused(pasted, recipe, tool,
                                                tmp_path):
    torch.save(pasted.state_dict(), tmp_path / 'w.pt')
    tool(CONVERTERS + 'import_recipe.py', recipe, tmp_path / 'mine.py',
         '--classes', 'a', 'b', 'c')
    with pytest.raises(SystemExit, match=r'does not fit.*\n.*'
                       r'backbone.patch_embed.proj.weight: \(64, 3, 4, 4\) '
                       r'in the file, \(96, 3, 4, 4\) in the model'):
        tool(CONVERTERS + 'convert_detector.py', tmp_path / 'w.pt',
             tmp_path / 'mine.py', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


# ------------------------------------------------------------ stock YOLOv8
@pytest.fixture(scope='module')
def stock():
    torch.manual_seed(0)
    return randomise(reference.stock(80)).eval()


def mmyolo_stock():
    init_default_scope('mmyolo')
    from mmengine.hub import get_config
    cfg = get_config('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py')
    return randomise(MODELS.build(cfg.model)).eval()


# FasterNet-n gives the neck the widths that CSPDarknet does, T0 does not
LEFT = dict(
    n=[],
    t0=[
        'neck.reduce_layers.2.conv1.conv.weight:',
        'neck.reduce_layers.2.conv1.bn.weight:',
        'neck.reduce_layers.2.conv1.bn.bias:',
        'neck.reduce_layers.2.conv1.bn.running_mean:',
        'neck.reduce_layers.2.conv1.bn.running_var:',
        'neck.reduce_layers.2.conv2.conv.weight:',
        'neck.top_down_layers.0.main_conv.conv.weight:',
        'neck.top_down_layers.1.main_conv.conv.weight:'
    ])


@pytest.mark.parametrize('origin', ['ultralytics', 'whole modules', 'mmyolo'])
def test_neck_and_head_of_stock_yolov8_are_kept(origin, stock, tool, tmp_path,
                                                monkeypatch):
    weights, target = tmp_path / 'yolov8n.pt', tmp_path / 'out.pth'
    if origin == 'mmyolo':
        tensors = mmyolo_stock().state_dict()
        torch.save(dict(meta={}, state_dict=tensors), weights)
        pairs = {
            name: name
            for name in ('neck.bottom_up_layers.0.blocks.0.conv2.bn.bias',
                         'neck.downsample_layers.1.conv.weight',
                         'bbox_head.head_module.cls_preds.2.2.weight',
                         'bbox_head.head_module.reg_preds.0.1.conv.weight')
        }
        pairs['neck.reduce_layers.2.conv2.bn.running_mean'] = \
            'backbone.stage4.2.conv2.bn.running_mean'
    else:
        tensors = stock.state_dict()
        if origin == 'ultralytics':
            torch.save(tensors, weights)
        else:
            save_as_ultralytics(stock, weights, monkeypatch)
        head = 'bbox_head.head_module.'
        pairs = {
            'neck.bottom_up_layers.0.blocks.0.conv2.bn.bias':
            'model.18.m.0.cv2.bn.bias',
            'neck.downsample_layers.1.conv.weight': 'model.19.conv.weight',
            f'{head}cls_preds.2.2.weight': 'model.22.cv3.2.2.weight',
            f'{head}reg_preds.0.1.conv.weight': 'model.22.cv2.0.1.conv.weight',
            'neck.reduce_layers.2.conv2.bn.running_mean':
            'model.9.cv2.bn.running_mean'
        }
    for arch, expected in LEFT.items():
        options = {'model.backbone.arch': arch}
        out = tool(CONVERTERS + 'convert_detector.py', weights,
                   'configs/yolov8_fasternet_n.py', target, '--cfg-options',
                   f'model.backbone.arch={arch}')
        written = torch.load(target, weights_only=True)['state_dict']
        for ours, theirs in pairs.items():
            assert torch.equal(written[ours], tensors[theirs]), ours
            assert f'taken  {ours}\n' in out
        left = [
            line.split()[1] for line in out.splitlines()
            if line.startswith('left')
        ]
        assert left == expected
        # a complete checkpoint: nothing is missing when training loads it
        init_default_scope('mmyolo')
        detector = MODELS.build(
            load_config('configs/yolov8_fasternet_n.py', options).model)
        load_checkpoint(detector, str(target), strict=True)


def test_other_classes_keep_all_but_the_last_layers(stock, tool, tmp_path):
    torch.save(stock.state_dict(), tmp_path / 'w.pt')
    out = tool(CONVERTERS + 'convert_detector.py', tmp_path / 'w.pt',
               'configs/yolov8_fasternet_n.py', tmp_path / 'o.pth',
               '--cfg-options', 'classes=[a,b]')
    assert 'left   bbox_head.head_module.cls_preds.0.2.bias: (80,) in the ' \
        'file, (2,) in the model' in out
    assert 'taken  bbox_head.head_module.reg_preds.0.2.bias' in out
    taken, left = (len(re.findall(rf'^{word} ', out, re.MULTILINE))
                   for word in ('taken', 'left'))
    assert re.search(rf'o.pth: {taken} of \d+ tensors from .*w.pt, {left} of '
                     'its neck and head left; ', out), out[-400:]
    assert out.endswith(
        f'Go on with --cfg-options load_from={tmp_path}/o.pth\n')


# ------------------------------------------------------------ mmdet 2
def mmdet2_mask_rcnn(arch, widths):
    """Names and shapes of MMDetection 2.25's Mask R-CNN with FPN.

    Written out from its FPN, RPNHead, Shared2FCBBoxHead and FCNMaskHead, for
    80 classes, with the authors' backbone below `backbone.`.
    """
    backbone = randomise(FasterNet(arch, out_indices=(0, 1, 2, 3))).eval()
    tensors = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    shapes = {}
    for i, width in enumerate(widths):
        shapes[f'neck.lateral_convs.{i}.conv'] = 256, width, 1, 1
        shapes[f'neck.fpn_convs.{i}.conv'] = 256, 256, 3, 3
    shapes['rpn_head.rpn_conv'] = 256, 256, 3, 3
    shapes['rpn_head.rpn_cls'] = 3, 256, 1, 1
    shapes['rpn_head.rpn_reg'] = 12, 256, 1, 1
    shapes['roi_head.bbox_head.fc_cls'] = 81, 1024
    shapes['roi_head.bbox_head.fc_reg'] = 320, 1024
    shapes['roi_head.bbox_head.shared_fcs.0'] = 1024, 12544
    shapes['roi_head.bbox_head.shared_fcs.1'] = 1024, 1024
    for i in range(4):
        shapes[f'roi_head.mask_head.convs.{i}.conv'] = 256, 256, 3, 3
    shapes['roi_head.mask_head.upsample'] = 256, 256, 2, 2
    shapes['roi_head.mask_head.conv_logits'] = 80, 256, 1, 1
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        tensors[f'{name}.weight'] = torch.rand(shape, generator=generator)
        tensors[f'{name}.bias'] = torch.rand(shape[0], generator=generator)
    return tensors


def test_the_authors_mask_rcnn_loads_completely(tool, tmp_path):
    """mmdet 2's layout, with T0 in place of S to be quick."""
    config = 'configs/mask_rcnn/mask-rcnn_fasternet-s_fpn_1x_coco.py'
    widths = [40, 80, 160, 320]
    options = [
        '--cfg-options', 'model.backbone.arch=t0',
        f'model.neck.in_channels={widths}'.replace(' ', '')
    ]
    tensors = mmdet2_mask_rcnn('t0', widths)
    source, target = tmp_path / 'epoch_12.pth', tmp_path / 'out.pth'
    names = tuple(f'c{i}' for i in range(80))
    torch.save(
        dict(
            meta=dict(mmdet_version='2.25.0', CLASSES=names),
            state_dict=tensors,
            optimizer=dict(state={}, param_groups=[])), source)
    out = tool(CONVERTERS + 'convert_detector.py', source, config, target,
               *options)
    assert f'{len(tensors)} of {len(tensors)} tensors' in out
    written = torch.load(target, weights_only=True)
    assert written['meta']['dataset_meta']['classes'] == names
    digits = hashlib.sha256(source.read_bytes()).hexdigest()
    assert written['meta']['converted_from'] == \
        f'epoch_12.pth, SHA-256 {digits}'
    assert 'left   ' not in out and 'Go on with' not in out
    for name, value in tensors.items():
        assert torch.equal(written['state_dict'][name], value), name

    tensors.pop('roi_head.mask_head.upsample.bias')
    torch.save(dict(state_dict=tensors), source)
    target.unlink()
    with pytest.raises(SystemExit, match=r'does not fit.*\n.*'
                       'roi_head.mask_head.upsample.bias: not in the file'):
        tool(CONVERTERS + 'convert_detector.py', source, config, target,
             *options)
    assert not target.exists()


# ------------------------------------------------------------ refusals
@pytest.mark.parametrize('content, words', [
    (dict(a=torch.ones(1)), 'nothing in it fits|does not fit'),
    ({'model.22.dfl.conv.weight': torch.ones(1, 16, 1, 1)}, 'is not 0, 1, 2'),
    ({'model.23.dfl.conv.weight': torch.ones(1)}, 'is layer 23: it is 22'),
    ({'model.22.dfl.conv.weight': torch.arange(16.),
      'model.11.conv.weight': torch.ones(1)}, 'layer 11 has weights'),
])
def test_unknown_detectors_are_refused(content, words, tool, tmp_path):
    torch.save(content, tmp_path / 'x.pt')
    with pytest.raises(SystemExit, match=words):
        tool(CONVERTERS + 'convert_detector.py', tmp_path / 'x.pt',
             'configs/yolov8_fasternet_n.py', tmp_path / 'o.pth')
    assert not (tmp_path / 'o.pth').exists()


# ------------------------------------------------------------- publishing
@pytest.mark.parametrize('fp16', [False, True])
def test_a_published_model_is_its_weights_and_classes(fp16, small, tool,
                                                      tmp_path):
    checkpoint = torch.load(small.checkpoint, weights_only=False)
    checkpoint.update(optimizer=dict(state=torch.ones(9)), message_hub=1)
    checkpoint['meta'] = dict(
        cfg='data_root = "/home/me"', dataset_meta=dict(classes=('a', 'b')))
    source = tmp_path / 'epoch_1.pth'
    torch.save(checkpoint, source)
    out = tool(CONVERTERS + 'publish_model.py', source, tmp_path / 'n.pth',
               *['--fp16'] * fp16)
    path, = tmp_path.glob('n-*.pth')
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'n-{digits[:8]}.pth'
    assert f'{path}: ' in out and f'SHA-256 {digits}' in out
    # whoever takes it by its name has it checked, see checkpoint_path
    data = torch.load(path, weights_only=True)
    assert {*data} == {'meta', 'state_dict'}
    assert data['meta'] == dict(
        mmfasternet_version=__version__, dataset_meta=dict(
            classes=('a', 'b')))
    weights = checkpoint['state_dict']
    assert_same_bits(
        {k: v.half() if fp16 and v.ndim > 1 else v
         for k, v in weights.items()}, data['state_dict'])
    assert fp16 == (path.stat().st_size < 0.6 * sum(
        v.numel() * v.element_size() for v in weights.values()))


@pytest.mark.parametrize('data,message', [
    (dict(meta=dict()), 'no weights under state_dict'),
    (dict(state_dict=dict(w=torch.full((1, 1), 1e5))),
     'w of .* is not finite in 16 bits')])
def test_what_cannot_be_published(data, message, tool, tmp_path):
    torch.save(data, tmp_path / 'a.pth')
    with pytest.raises(SystemExit, match=message):
        tool(CONVERTERS + 'publish_model.py', tmp_path / 'a.pth',
             tmp_path / 'b.pth', '--fp16')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
