# SPDX-License-Identifier: GPL-3.0-only
# GPL because it runs tools that import mmyolo.
"""The training runs of a comparison, and what they detect."""
import csv
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config, DictAction

from mmfasternet.checkpoint import whole_file
from mmfasternet.config import load_config
from mmfasternet.config.recipe import with_model_of

_TOOLS = Path(__file__).parents[2] / '.mim' / 'tools'


@dataclass
class Run:
    """One training run of one detector, or a file of what it detects."""

    name: str  #: Of the detector.
    seed: int  #: Of the training run.
    config: Optional[Path] = None  #: Complete, with the recipe in it.
    work_dir: Optional[Path] = None  #: With its logs and checkpoints.
    file: Optional[Path] = None  #: COCO json of its detections on ``val``.

    @cached_property
    def settings(self) -> Config:
        """What stands in its config."""
        return Config.fromfile(self.config)

    def checkpoint(self) -> Path:
        """The last one, which no look at the validation has chosen.

        Raises:
            FileNotFoundError: If the training run is not at its end.
        """
        last = self.settings.train_cfg.max_epochs
        path = self.work_dir / f'epoch_{last}.pth'
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} not found: the training run has not come to its end')
        return path

    def val(self, name: str) -> Optional[Path]:
        """Of its validation ``'annotations'`` (a file) or ``'images'`` (a
        folder); None for a file of detections."""
        if self.config is None:
            return None
        dataset = self.settings.val_dataloader.dataset
        path = dataset.ann_file if name == 'annotations' else \
            dataset.data_prefix.img
        return Path(dataset.data_root or '') / path

    def train(self, arguments: Sequence[str] = ()) -> None:
        """Train to the end, or go on to it, with arguments of tools/train.py.

        Raises:
            CalledProcessError: If the training run fails.
        """
        if self.file is not None:
            return
        try:
            self.checkpoint()
        except FileNotFoundError:
            _run_tool('train.py', self.config, '--work-dir', self.work_dir,
                      '--resume', *arguments)

    def detections(self) -> Path:
        """COCO json of what it detects on ``val``, made if it is missing."""
        if self.file is not None:
            return self.file
        path, checkpoint = self.work_dir / 'val.bbox.json', self.checkpoint()
        if not path.is_file() or \
                path.stat().st_mtime < checkpoint.stat().st_mtime:
            prefix = self.work_dir / 'val'
            _run_tool('test.py', self.config, checkpoint, '--work-dir',
                      prefix, '--json-prefix', prefix)
        return path

    def log(self) -> List[Dict[str, str]]:
        """Rows of ``results.csv``, none where there is no such file."""
        path = self.work_dir and self.work_dir / 'results.csv'
        if not path or not path.is_file():
            return []
        with path.open(newline='') as file:
            return list(csv.DictReader(file))


def _run_tool(name: str, *arguments: Any) -> None:
    """Train or test as a user does, in a process of its own.

    A process, because what MMEngine keeps globally (loggers, registries, the
    random state), and memory that is measured, must not go from one training
    run to the next, and because one that dies must not take the others along.

    Raises:
        CalledProcessError: If it fails.
    """
    subprocess.run([sys.executable, _TOOLS / name, *map(str, arguments)],
                   check=True)


def parse_detector(text: str) -> Tuple[str, str, Dict[str, Any]]:
    """Take ``[NAME=]PATH[,KEY=VALUE...]`` apart into name (that of the path
    and the options unless it is given), path and options.

    Raises:
        ValueError: If it is not so.
    """
    first, *options = text.split(',')
    name, _, path = first.rpartition('=')
    if not path or not all('=' in option for option in options):
        raise ValueError(f'{text!r} is not [NAME=]CONFIG[,KEY=VALUE...]')
    values = {key: DictAction._parse_iterable(value) for key, value in (
        option.split('=', 1) for option in options)}
    # a folder may be called lr_0.01, and `val.bbox.json` is of any
    stem = re.sub(r'\.(py|json|ya?ml)$', '', Path(path).resolve().name)
    name = name or ','.join([stem, *options])
    return name.replace('/', '-'), path, values


def prepare(detectors: Sequence[str], recipe: Optional[str],
            seeds: Sequence[int], work_dir: Path,
            options: Dict[str, Any],
            unmodified: bool = False) -> List[Run]:
    """What is to be compared; a config is written for each training run.

    Args:
        detectors (Sequence[str]): See :func:`parse_detector`; a path is a
            config, the work directory of a training run, or a .json of
            detections. The latter two may come several times with one NAME
            that is given, once for each seed.
        recipe (str, optional): The config that gives data, schedule and
            optimizer; None for the first config.
        seeds (Sequence[int]): With which each config is trained.
        work_dir (Path): Below which each training run gets NAME/seed_N.
        options (dict): For the recipe.
        unmodified (bool): See :func:`with_model_of`.

    Returns:
        list[Run]: Those that are to be trained seed by seed, so that the
        first seed of all comes first.

    Raises:
        ValueError: If two that differ have one name, a folder holds a training
            run with other settings, or a recipe is for nothing.
    """
    runs: List[Run] = []
    cfgs: Dict[str, Config] = {}
    base = None
    for text in detectors:
        name, path, values = parse_detector(text)
        exists = Path(path).is_dir() or path.endswith('.json')
        is_seed = exists and text.startswith(f'{name}=') and name not in cfgs
        if not is_seed and (name in cfgs or name in [r.name for r in runs]):
            raise ValueError(f'two are called {name}: call one NAME={path}, '
                             'or, if they are training runs of one detector, '
                             'each by the same NAME')
        if exists:
            runs.append(_existing(name, Path(path), runs))
            continue
        if base is None:
            base = load_config(path if recipe is None else recipe, options)
        cfgs[name] = with_model_of(base, load_config(path, values), unmodified)
    if (recipe is not None or options) and not cfgs:
        raise ValueError('--recipe and --cfg-options are for what is trained, '
                         'and no detector is a config')
    for seed in seeds:
        for name, cfg in cfgs.items():
            folder = work_dir / name / f'seed_{seed}'
            cfg.randomness = dict(seed=seed)
            config = folder.with_suffix('.py')
            _write_config(cfg, config)
            runs.append(Run(name, seed, config, folder))
    return runs


def _existing(name: str, path: Path, others: Sequence[Run]) -> Run:
    number = 1 + sum(run.name == name for run in others)
    if path.suffix == '.json':
        if not path.is_file():
            raise FileNotFoundError(f'detections not found: {path}')
        return Run(name, number, file=path)
    # tools/train.py writes the complete config into the work directory
    configs = sorted(path.glob('*.py'))
    if len(configs) != 1:
        raise ValueError(f'{path} is not the work directory of a training '
                         f'run: it holds {len(configs)} configs (.py), not '
                         'one')
    run = Run(name, number, configs[0], path)
    seed = run.settings.get('randomness', {}).get('seed')
    run.seed = number if seed is None else seed
    return run


def _write_config(cfg: Config, path: Path) -> None:
    text = cfg.pretty_text
    if path.exists() and path.read_bytes() != text.encode():
        raise ValueError(f'{path} is of a training run with other settings: '
                         'choose another --work-dir, or delete it and its '
                         'folder')
    with whole_file(path) as file:
        file.write(text.encode())
