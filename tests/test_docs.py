# SPDX-License-Identifier: GPL-3.0-only
"""The documents: what they tell to type works, and where they point exists.

Every command in a block or in the text is given to the parser of its tool,
with the config and options that it names; Python blocks are built or run.
What the slow test runs for real are all commands but those of ``NOT_RUN``.
"""
import ast
import configparser
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from conftest import skip_if_not_found_by_name
from markdown_it import MarkdownIt
from mmengine.registry import MODELS, init_default_scope
from trees import coco_json, voc_xml, write_image, yolo_txt

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet.config import load_config

PAGES = sorted(
    str(path) for pattern in (
        '*.md', 'docs/*/*.md', 'configs/*/README.md', 'examples/README.md')
    for path in Path().glob(pattern))
TWINS = [(page, chinese) for page in PAGES
         for chinese in [
             page.replace('docs/en/', 'docs/zh_cn/').replace(
                 'README.md', 'README_zh-CN.md')]
         if page != chinese and not page.startswith(('configs', 'examples'))]
# Names of what the reader has, or makes with an earlier line.
MADE = ('configs/mine.py', )
# Programs that are not ours, whose lines no parser here knows.
FOREIGN = ('apt', 'cmake', 'docker', 'git', 'pre-commit', 'sbatch',
           'sphinx-build', 'timeout', 'trtexec', 'yolo')


# ------------------------------------------------------------- reading
@cache
def read(page):
    """Blocks, code spans, links, headings and tables of a page."""
    found = SimpleNamespace(
        blocks=[], spans=[], links=[], headings=[], rows=[], text=[])
    tokens = MarkdownIt('commonmark').enable('table').parse(
        Path(page).read_text(encoding='utf-8'))
    for before, token in zip([None, *tokens], tokens):
        if token.type == 'fence':
            found.blocks.append((token.info, token.content))
        if token.type == 'tr_open':
            found.rows.append([])
        if token.type != 'inline':
            continue
        if before.type == 'heading_open':
            found.headings.append((before.tag, token.content))
        if before.type in ('td_open', 'th_open'):
            found.rows[-1].append(token.content)
        for child in token.children:
            if child.type == 'code_inline':
                found.spans.append(child.content)
            elif child.type in ('link_open', 'image'):
                found.links.append(
                    child.attrs.get('href') or child.attrs['src'])
    return found


def anchors(page):
    """As GitHub makes them."""
    return {
        re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        for _, title in read(page).headings
    }


@cache
def words_of(script):
    """The words of each simple command of a shell script, none of it run."""
    record = '''
        command_not_found_handle() { printf '%s\\x1f' "$@"; printf '\\x1e'; }
        cd() { command_not_found_handle cd "$@"; }
        source() { command_not_found_handle source "$@"; }
        PATH=/nowhere
        '''
    done = subprocess.run(['bash', '-c', record + script], cwd='/',
                          capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return [
        line.split('\x1f')[:-1] for line in done.stdout.split('\x1e') if line
    ]


def scripts(page):
    """Shell blocks, what a console block was told, and commands in text."""
    for language, content in read(page).blocks:
        assert language in ('bash', 'console', 'python'), (
            f'{page}: a block needs its language, got {language!r}')
        if language == 'console':
            content = '\n'.join(
                re.findall(r'^\$ (.*)', content, flags=re.M))
        if language != 'python':
            yield content
    for span in read(page).spans:
        if '...' in span:
            continue
        if re.match(r'(\w+=\S+ )*(python|bash|pip|mim|pre-commit) ', span):
            yield span
        # a column of arguments for tests/run.sh
        elif re.match(r'(-m slow )?tests/test_\w+.* -|-m slow tests/', span):
            yield f'bash tests/run.sh {span}'


def commands(page):
    return [words for script in scripts(page) for words in words_of(script)]


# ------------------------------------------------------------- checking
@cache
def parser_of(tool):
    folder = str(Path(tool).parent)  # as where Python runs a script
    if folder not in sys.path:
        sys.path.append(folder)
    return runpy.run_path(tool, run_name='documented')['parse_args']


@cache
def config_with(config, options):
    return load_config(config, dict(options))


def freeze(value):
    return tuple(value) if isinstance(value, list) else value


def check_tool(tool, arguments, monkeypatch, folder=Path()):
    # what stands in brackets may be left out
    arguments = [re.sub(r'^\[(?=--)|(?<!\[)\]$', '', a) if
                 not re.search(r'=|^\[[^-]', a) else a for a in arguments]
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    try:
        args = parser_of(tool)()
    except SystemExit:
        pytest.fail(f'{tool} does not take {arguments}')
    for word in arguments:
        path = re.split('[@,=]', word)[0]
        if re.match(r'(configs|demo|docs|examples|resources|tests|tools)/',
                    path) and path not in MADE:
            assert (folder / path).exists(), f'{path} does not exist'
        elif '::' in path:
            config_with(path, ())
    config = str(getattr(args, 'config', ''))
    if (folder / config).is_file():
        options = getattr(args, 'cfg_options', None) or {}
        config_with(
            str(folder / config),
            tuple((k, freeze(v)) for k, v in options.items()))


def check(words, monkeypatch, folder=Path()):
    """A command of a document, without running it."""
    program, *arguments = words
    if program == 'python' and arguments[0] == '-m':
        assert find_spec(arguments[1]), arguments[1]
    elif program == 'python':
        tool = (folder / arguments[0]).resolve().relative_to(Path().resolve())
        check_tool(str(tool), arguments[1:], monkeypatch, folder)
    elif program == 'bash':
        script, *rest = arguments
        assert Path(script).is_file(), script
        name = Path(script).name
        if name == 'dist_train.sh':
            assert rest[1].isdigit()
            check_tool('tools/train.py', [rest[0], *rest[2:]], monkeypatch)
        elif name == 'dist_test.sh':
            assert rest[2].isdigit()
            check_tool('tools/test.py', rest[:2] + rest[3:], monkeypatch)
        elif name == 'slurm_train.sh':
            check_tool('tools/train.py',
                       [rest[2], '--work-dir', *rest[3:]], monkeypatch)
        elif name == 'slurm_test.sh':
            check_tool('tools/test.py', rest[2:], monkeypatch)
        else:
            assert name == 'run.sh' or not rest, words
    elif program == 'pip':
        setup = configparser.ConfigParser()
        setup.read('setup.cfg')
        assert arguments[0] in ('install', 'uninstall'), words
        for extras in re.findall(r'\.\[(.*?)\]', ' '.join(arguments)):
            for extra in extras.split(','):
                assert extra in setup['options.extras_require'], extra
    elif program == 'mim':
        check_mim(arguments, monkeypatch)
    elif program == 'cd':
        folder = folder / arguments[0]
        assert folder.is_dir(), words
        monkeypatch.syspath_prepend(folder)  # PYTHONPATH=.
    elif program == 'source':
        assert arguments == ['.venv/bin/activate']
    else:
        assert program in FOREIGN, words
        for option in arguments:
            if option.startswith('--wrap='):
                for inner in words_of(option.partition('=')[2]):
                    check(inner, monkeypatch)
    return folder


def check_mim(arguments, monkeypatch):
    """mim finds a config or a tool by its name, if there is only one."""
    command, *rest = arguments
    assert command in ('install', 'list', 'search', 'train', 'test', 'run',
                       'gridsearch', 'download')
    if rest and command in ('train', 'test', 'run', 'gridsearch'):
        assert rest.pop(0) == 'mmfasternet'
    if not rest:
        return
    if command == 'run':
        (tool, ) = Path('tools').rglob(rest.pop(0) + '.py')
        check_tool(str(tool), rest, monkeypatch)
    elif command in ('train', 'test', 'gridsearch'):
        config = rest.pop(0)
        if '/' not in config and config.endswith('.py'):
            (config, ) = Path('configs').rglob(config)
        if command == 'gridsearch':
            *rest, key = rest
            keys = re.findall(r'--([\w.]+)', key)
            assert all(load_config(str(config)).get(k.split('.')[0])
                       for k in keys) and keys
            command, rest = 'train', rest[:2]
        rest = [a for a in rest if a != '--checkpoint']
        check_tool(f'tools/{command}.py', [str(config), *rest], monkeypatch)


@pytest.fixture
def launcher_free(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # the parsers would leave it set
    return monkeypatch


@pytest.mark.parametrize('page', PAGES)
def test_commands_have_the_form_that_their_tools_take(page, launcher_free):
    for script in scripts(page):
        folder = Path()
        for words in words_of(script):
            # what OpenMMLab's own releases do not have or find
            if 'classification' in ' '.join(words):
                pytest.importorskip('mmpretrain')
            if 'examples' in str(folder):  # it inherits `mmfasternet::`
                skip_if_not_found_by_name()
            folder = check(words, launcher_free, folder)


def pytest_arguments():
    found = {
        tuple(w for w in words[2:] if w not in ('pytest', '-s', 'ARGUMENTS'))
        for page in PAGES for words in commands(page)
        if words[:2] == ['bash', 'tests/run.sh']
        or words[:3] == ['python', '-m', 'pytest']
    }
    return [words for words in found if words]


def test_tests_that_documents_name_are_there():
    assert len(pytest_arguments()) > 10
    for words in pytest_arguments():
        files = [Path(w) for w in words if w.startswith('tests/')]
        text = ' '.join(
            path.read_text() for path in files or Path('tests').rglob('*.py'))
        if '-k' in words:
            for word in re.findall(r'[\w-]+', words[words.index('-k') + 1]):
                # a number may be part of what a parameter is called
                assert word in ('and', 'or', 'not') or word in text or \
                    re.fullmatch(r'\d+-\d+', word), words


@pytest.mark.slow
def test_pytest_collects_what_documents_name():
    script = ('import sys, pytest\n'
              'for line in sys.stdin.read().splitlines():\n'
              '    code = pytest.main(line.split(chr(31)) + [\n'
              '        "--collect-only", "-qq", "-p", "no:cacheprovider"])\n'
              '    if code: print("NOTHING:", line)\n')
    done = subprocess.run(
        [sys.executable, '-c', script],
        input='\n'.join(map('\x1f'.join, pytest_arguments())),
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'NOTHING' not in done.stdout, done.stdout[-3000:]


# ------------------------------------------------------------- Python
def blocks_of_python():
    return [
        pytest.param(content, id=f'{page}-{i}') for page in PAGES
        for i, (language, content) in enumerate(read(page).blocks)
        if language == 'python' and '/zh_cn/' not in page
        and 'zh-CN' not in page
    ]


def is_config(code):
    return not re.search(r'^(import|from) ', code, flags=re.M)


@pytest.mark.parametrize('code', blocks_of_python())
def test_python_blocks(code, tmp_path):
    if 'mmfasternet::' in code:
        skip_if_not_found_by_name()
    if not is_config(code):
        run_python(code)
        return
    base = f'_base_ = {str(Path("configs/yolov8_fasternet_s.py").resolve())!r}'
    code = code.replace("'./", f"'{Path('configs').resolve()}/")
    # lines that give one name in turn are alternatives
    given = re.findall(r'^(\w+) = ', code, flags=re.M)
    alternatives = [code] if len(given) == len(set(given)) else \
        code.splitlines()
    for i, lines in enumerate(alternatives):
        path = tmp_path / f'block{i}.py'
        path.write_text(lines if '_base_' in lines else f'{base}\n{lines}')
        cfg = load_config(str(path))
        for name, value in ast_values(lines).items():
            assert cfg[name] == value
        if 'pretrained' in given:
            assert cfg.model.backbone.init_cfg.checkpoint == cfg.pretrained
        init_default_scope(cfg.default_scope)
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        if 'model' in given:
            kinds = re.findall(r"type='(?:\w+\.)?(\w+)'", lines)
            assert not kinds or type(model.backbone).__name__ in kinds


def ast_values(code):
    """The names to which a config assigns plain values."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(code).body
        if not isinstance(node.value, ast.Call)
        and node.targets[0].id != '_base_'
    }


def run_python(code):
    """In full, or where it reads the reader's files its imports."""
    tree = ast.parse(code)
    if re.search(r"'[\w/]+\.(onnx|jpg|mp4)'", code):
        tree.body = [node for node in tree.body
                     if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(tree, '<document>', 'exec'), {})


# ------------------------------------------------------------- links, twins
@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for link in read(page).links:
        target, _, anchor = link.partition('#')
        if '://' in target:
            assert target.startswith('https://'), link
            continue
        path = Path(page).parent / target if target else Path(page)
        assert path.exists(), f'{link} in {page}'
        if anchor:
            assert unquote(anchor) in anchors(str(path)), f'{link} in {page}'


def test_every_page_is_in_the_table_of_the_readme():
    for readme in ('README.md', 'README_zh-CN.md'):
        folder = 'docs/zh_cn/' if 'zh' in readme else 'docs/en/'
        linked = set(read(readme).links)
        pages = {str(path) for path in Path(folder).glob('*.md')}
        assert pages and pages <= linked
        toctree = Path('docs/index.rst').read_text()
        for page in pages:
            assert page[len('docs/'):-len('.md')] in toctree, page


def without_comments(code):
    return [re.sub(r'(^|\s+)#.*', '', line) for line in code.splitlines()]


def numbers(text):
    return sorted(re.findall(r'\d+(?:[.,]\d+)*', text))


@pytest.mark.parametrize('page, chinese', TWINS)
def test_twins_are_in_step(page, chinese):
    ours, theirs = read(page), read(chinese)
    assert [tag for tag, _ in ours.headings] == [
        tag for tag, _ in theirs.headings]
    assert [(kind, without_comments(code)) for kind, code in ours.blocks] == [
        (kind, without_comments(code)) for kind, code in theirs.blocks]
    assert len(ours.rows) == len(theirs.rows)
    for row, other in zip(ours.rows, theirs.rows):
        assert len(row) == len(other), other
        assert numbers(' '.join(row)) == numbers(' '.join(other)), other

    def targets(found):
        return sorted(
            re.sub('#.*', '', link).replace('zh_cn/', 'en/').replace(
                'README_zh-CN.md', 'README.md') for link in found.links)

    assert targets(ours) == targets(theirs)


# ------------------------------------------------------------- running
# What is in a command that the test below does not run, and why. Its form
# has been checked above.
NOT_RUN = {
    'quickstart.sh|setup_env.sh|aarch64.sh|^apt ':
    'makes the environment, from the network',
    'tests/(run.sh|mutation.py)|-m pytest|pre-commit': 'the tests themselves',
    '^(git|pip|source|cd|sphinx-build) ': 'network, or the environment',
    'people|yolo11n.onnx': 'the archive of VOC 2007; another package',
    '^mim ': 'test_packaging.py walks through mim',
    'docker': 'there may be none',
    'sbatch|slurm_train.sh': 'Slurm; test_distributed.py has a stand-in',
    r'dist_\w+.sh .* 8': '8 GPUs; test_distributed.py has processes on CPU',
    'fasternet://|in1k.py': 'network: weights of the authors, ImageNet',
    'cuda:0': 'a GPU',
    '--sensitivity': 'minutes; test_quantization.py has a smaller network',
    r'--backbones --|_l.py .*_x.py': 'minutes, for 10 and 25 networks; other '
    'lines have two and three',
    'train.py .*mask-rcnn': 'test_mmdet_detectors.py trains it',
    '^cmake ': 'test_cpp_example.py builds it where the library is',
    '[.]tflite|litert': 'litert-torch is 1 GB; test_litert.py writes it where '
    'it is',
    'web_demo.py': 'it serves until it is stopped; test_web_demo.py opens it',
}
# Put in so that it is over in seconds: less of the same.
TINY = ('pretrained=None max_epochs=1 val_interval=1 img_scale=64,64 '
        'train_batch_size_per_gpu=2 train_num_workers=0 val_num_workers=0')
SHORTER = {
    'train.py configs/yolov8_fasternet_(lite_)?s': f'--cfg-options {TINY}',
    'test.py configs/yolov8_fasternet_s':
    '--cfg-options img_scale=64,64 val_num_workers=0',
    'train.* configs/yolov8_fasternet_n|../tools/train.py':
    '--cfg-options max_epochs=1 train_dataloader.dataset.indices=16',
    'train.py configs/mine.py .*load_from':
    '--cfg-options classes=Platelets,RBC,WBC data_root=data/bccd/ '
    'train_ann_file=annotations/train.json train_data_prefix=JPEGImages/ '
    f'val_ann_file=annotations/val.json val_data_prefix=JPEGImages/ {TINY}',
    'convert_detector.py (SRC|yolov8s)': '--cfg-options pretrained=None',
    'prepare.py BCCD': '--img-scale 64 --epochs 30',
    'prepare.py data.yaml': '--epochs 2 --img-scale 64',
    'benchmark.py': '--runs 1',
    'compare.py': '--runs 2',
    'compare.py YOLOv8n=': '--cfg-options max_epochs=1 img_scale=64,64',
    'compare.py A=work_dirs': '--seeds 1',
    'benchmark_from_file.py|quantize.py': '--runs 2',
    'benchmark_training.py': '--steps 1',
}
CLASSES = ('Platelets', 'RBC', 'WBC')
ENGLISH = [page for page in PAGES if 'zh' not in page.lower()]


def write_labels(root):
    """The same 16 images as BCCD's Pascal VOC, as YOLO's and as COCO's."""
    rng = np.random.default_rng(0)
    coco_classes = load_config('configs/yolov8_fasternet_s.py').classes
    voc, coco = root / 'BCCD_Dataset/BCCD', root / 'data/coco'
    for folder in (voc / 'Annotations', voc / 'JPEGImages',
                   voc / 'ImageSets/Main', coco / 'annotations',
                   root / 'yolo'):
        folder.mkdir(parents=True)
    for split, count in dict(train=10, val=6).items():
        images = {}
        for i in range(count):
            name = f'{split}{i}'
            kind, (x, y) = i % 3, rng.integers(0, 60, 2).tolist()
            image = rng.integers(0, 90, (96, 128, 3), dtype=np.uint8)
            image[y:y + 30, x:x + 30] = 255 * np.eye(3)[kind]
            for folder in (voc / 'JPEGImages', coco / f'{split}2017',
                           root / f'yolo/images/{split}'):
                write_image(folder / f'{name}.jpg', 128, 96, image)
            truth = 128, 96, [(CLASSES[kind], x, y, 30, 30)]
            (voc / f'Annotations/{name}.xml').write_text(
                voc_xml(f'{name}.jpg', *truth))
            label = root / f'yolo/labels/{split}/{name}.txt'
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(yolo_txt(*truth, CLASSES))
            images[f'{name}.jpg'] = 128, 96, [
                (coco_classes[kind], x, y, 30, 30)]
        (voc / f'ImageSets/Main/{split}.txt').write_text(
            '\n'.join(name[:-4] for name in images))
        (coco / f'annotations/instances_{split}2017.json').write_text(
            json.dumps(coco_json(images, {
                c: i for i, c in enumerate(coco_classes)}, first_id=0)))
    (root / 'data.yaml').write_text(
        f'path: {root}/yolo\ntrain: images/train\nval: images/val\n'
        f'names: {list(CLASSES)}\n')


def write_weights(root):
    """A pasted model of Ultralytics, and a stock one of mmyolo."""
    import ultralytics_reference as reference
    from mmengine.hub import get_config
    torch.manual_seed(0)
    backbone = mmfasternet.models.FasterNet('t1', out_indices=(0, 1, 2, 3))
    pasted = reference.YOLOv8([backbone], backbone.out_channels[1:], 3)
    torch.save(pasted.state_dict(), root / 'best.pt')
    (root / 'yolov8n-fasternet.yaml').write_text(reference.RECIPE)
    init_default_scope('mmyolo')
    stock = get_config(
        'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py')
    torch.save(MODELS.build(stock.model).state_dict(), root / 'yolov8s.pt')


def real(words):
    """A command with the reader's files and with less to do."""
    text = ' '.join(words)
    config = 'configs/mine.py'
    checkpoint = 'work_dirs/mine/epoch_30.pth'
    if 'configs/yolov8_fasternet_s' in text:
        checkpoint = 'work_dirs/yolov8_fasternet_s/epoch_1.pth'
    source = 'best.pt'
    if 'convert_detector.py SRC' in text:
        source, config = 'yolov8s.pt', 'configs/yolov8_fasternet_s.py'
    names = dict(
        CONFIG=config, CHECKPOINT=checkpoint, SRC=source, FILE='best.pt',
        DST='converted.pth', VIDEO_OR_URL_OR_CAMERA='video.avi',
        IMAGE_OR_FOLDER_OR_URL='BCCD_Dataset/BCCD/JPEGImages/val0.jpg')
    words = [w if w == '[]' else w.strip('[]') for w in words]
    words = [names.get(w, w) for w in words]
    for part, options in SHORTER.items():
        if re.search(part, text):
            flag, *values = options.split()
            if flag == '--cfg-options' in words:
                at = words.index(flag) + 1
                words[at:at] = values
            else:
                words += options.split()
    return words


@pytest.fixture(scope='module')
def type_in(tmp_path_factory):
    """Types commands in a copy of the project where a detector is trained."""
    root = tmp_path_factory.mktemp('copy')
    ignore = shutil.ignore_patterns('.*', 'data', 'work_dirs', 'output')
    shutil.copytree('.', root, ignore=ignore, dirs_exist_ok=True,
                    symlinks=True)
    shutil.copytree('mmfasternet/.mim', root / 'mmfasternet/.mim',
                    symlinks=True)
    write_labels(root)
    write_weights(root)
    video = cv2.VideoWriter(
        str(root / 'video.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 48))
    for value in (0, 100, 200):
        video.write(np.full((48, 64, 3), value, np.uint8))
    video.release()
    env = dict(os.environ, PYTHONPATH=f'.{os.pathsep}{root}',
               PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    mine, work_dir = root / 'configs/mine.py', root / 'work_dirs/mine'
    done_before = set()

    def call(words, folder=Path()):
        words = real(words)
        if re.search('prepare.py|import_recipe.py', words[1]):
            mine.unlink(missing_ok=True)
        else:
            what = (*words, mine.exists() and mine.read_text())
            if what in done_before:
                return
            done_before.add(what)
        done = subprocess.run(words, cwd=root / folder, env=env,
                              capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f'{" ".join(words)}\n{said[-3000:]}'

    for command in (
            'python tools/dataset_converters/voc2coco.py BCCD_Dataset/BCCD '
            'data/bccd',
            'python tools/prepare.py BCCD_Dataset/BCCD configs/mine.py',
            'python tools/train.py configs/mine.py',
            'python tools/deploy/export.py CONFIG CHECKPOINT detector.onnx '
            'detector.xml',
            'python tools/deploy/quantize.py CONFIG detector.onnx '
            'detector_int8.onnx',
            'python tools/deploy/quantize.py CONFIG detector.xml '
            'detector_int8.xml'):
        call(command.split())
    for name in 'ab':
        call(f'python tools/test.py CONFIG CHECKPOINT --json-prefix {name}'
             .split())
        shutil.copytree(work_dir, root / 'work_dirs' / name)
    bccd = 'yolov8_fasternet_n_bccd'  # as if trained for all 30 epochs
    shutil.copytree(work_dir, root / 'work_dirs' / bccd)
    shutil.copy(
        work_dir / 'mine.py', root / f'work_dirs/{bccd}/{bccd}.py')
    shutil.copy(root / 'detector.onnx', root / 's.onnx')
    shutil.copy(root / 'detector_int8.onnx', root / 's_int8.onnx')
    config = mine.read_text()

    def start():
        """Each page finds the same detector, whatever another trained."""
        mine.write_text(config)
        shutil.rmtree(work_dir)
        shutil.copytree(root / 'work_dirs/a', work_dir)

    return SimpleNamespace(root=root, call=call, env=env, start=start)


@pytest.mark.slow
@pytest.mark.parametrize('page', ENGLISH)
def test_commands_run(page, type_in):
    """One after another, in a copy of the project, as a reader types them."""
    if page.endswith('phones.md'):
        pytest.importorskip('ncnn', reason='pip install -e .[ncnn]')
        pytest.importorskip('pnnx', reason='pip install -e .[ncnn]')
    type_in.start()
    for script in scripts(page):
        folder = Path()
        for words in words_of(script):
            text = ' '.join(words)
            if '--amp' in words and not has_bfloat16():
                continue
            if words[0] == 'cd':
                folder = folder / words[1]
            elif not any(re.search(part, text) for part in NOT_RUN):
                type_in.call(words, folder)


def has_bfloat16():
    return 'bf16' in Path('/proc/cpuinfo').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('code', [
    block for block in blocks_of_python() if "'detector.onnx'" in
    block.values[0]])
def test_python_blocks_run_with_the_files_that_they_read(code, type_in):
    image = type_in.root / 'BCCD_Dataset/BCCD/JPEGImages/val0.jpg'
    for name in ('a.jpg', 'b.jpg'):
        shutil.copy(image, type_in.root / name)
    code = code.replace('video.mp4', 'video.avi')
    subprocess.run([sys.executable, '-c', code], cwd=type_in.root,
                   env=type_in.env, check=True)


def test_what_is_not_run_is_still_in_the_documents():
    text = '\n'.join(' '.join(words) for page in ENGLISH
                     for words in commands(page))
    for part in (*NOT_RUN, *SHORTER):
        assert re.search(part, text, flags=re.M), part
