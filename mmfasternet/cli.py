# SPDX-License-Identifier: Apache-2.0
"""What the command line tools share: flags, errors, the work directory."""
import errno
import math
import os
import os.path as osp
import re
import sys
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    Optional,
    Tuple,
    Type,
)

from mmfasternet.doctor import diagnosed

with diagnosed():  # what every tool imports says what is missing
    from mmengine.config import Config
    from mmengine.registry import RUNNERS

    from mmfasternet.compat.mmengine_options import Options

if hasattr(sys.stdout, 'reconfigure'):  # names of files may not be UTF-8
    sys.stdout.reconfigure(errors='backslashreplace')
LARGEST = 2**31 - 1  # PyTorch takes no larger number everywhere


@contextmanager
def clear_errors(*kinds: Type[Exception]) -> Iterator[None]:
    """Turn a mistake of the user into one message, exit status 1.

    Args:
        *kinds (type): Exceptions that mean one. Defaults to
            ``OSError``, ``ImportError`` and ``ValueError``, of which
            ``CheckpointError`` is one.
    """
    kinds = kinds or (OSError, ImportError, ValueError)
    try:
        yield
    except kinds as error:
        # str() of a KeyError is in quotes
        text = error.args[0] if type(error) is KeyError else error
        # of an OSError it has a number, which helps nobody
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f'{error.filename2 or error.filename} cannot be read or ' \
                f'written: {error.strerror}'
        sys.exit(f'error: {text}')


def build_runner(cfg: Config) -> Any:
    """The runner of a config; what cannot be built is one message."""
    with clear_errors(FileExistsError, FileNotFoundError, ImportError,
                      KeyError, NotADirectoryError, PermissionError, TypeError,
                      ValueError):
        if not cfg.get('model'):
            raise ValueError(f'{cfg.filename} has no `model`: it is not a '
                             'complete config')
        return RUNNERS.build(cfg)


@contextmanager
def clear_build_errors() -> Iterator[None]:
    """One message where a part that the config names cannot be built."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, TypeError,
            ValueError) as error:
        from mmfasternet.compat.mmengine_runner import (
            is_unknown_metric,
            what_was_built,
        )
        if is_unknown_metric(error):
            sys.exit(f'error: save_best of the checkpoint hook is {error}, '
                     'which no evaluator gives; the names of those that there '
                     'are stand in results.csv. What was saved before is '
                     'whole: correct it and go on with --resume')
        part = what_was_built(error)
        if part is None:
            raise
        where = f'{part} cannot be built, correct its types and values: ' \
            if part else ''
        sys.exit(f'error: {where}{error.args[0] if error.args else error!r}')


# what arises in the midst of a run, and what it means
_OF_DATA = {
    r'failed to load image: (.*)':
    r'\1 cannot be read as an image: it is damaged, or of a format that '
    'OpenCV does not know. tools/misc/check_dataset.py finds all of these',
    r'Expected more than 1 value per channel when training.*':
    'the last feature map has one value of one image, which cannot be '
    'normalised: take a larger train_batch_size_per_gpu or img_scale, and '
    'train_dataloader.drop_last=True if the last batch is of one image',
    '`epoch_length` must be a positive integer.*':
    'an epoch has no batch: train_dataloader.drop_last=True leaves out what '
    'does not fill one, so take a smaller train_batch_size_per_gpu',
    '(persistent_workers|prefetch_factor) option .*num_workers > 0.*':
    r'a data loader has \1, which needs num_workers above 0: set the number '
    'by train_num_workers or val_num_workers, from which the rest follows, or '
    r'take it away by train_dataloader.\1=None, val_dataloader.\1=None',
}


@contextmanager
def clear_data_errors() -> Iterator[None]:
    """One message where an image, or a batch, is of no use."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        for pattern, words in _OF_DATA.items():
            # the last, as a worker of the loader tells its whole traceback
            *_, found = None, *re.finditer(pattern, str(error))
            if found:
                sys.exit(f'error: {found.expand(words)}')
        raise


@contextmanager
def clear_disk_errors(folder: str) -> Iterator[None]:
    """One message where a file could not be written for want of room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(f'error: cannot write to {folder}: {error.strerror}. What '
                 'was saved before is whole: make room and go on with '
                 '--resume')


class Skipped(list):
    """Images that cannot be read, each said when it is met."""

    last: Optional[Exception] = None

    def __call__(self, image: Any, error: Exception) -> None:
        self.append(image)
        self.last = error
        print(f'skipped: {error}', file=sys.stderr, flush=True)

    def readable(self, images: Iterable[Any],
                 read: Callable[[Any], Any]) -> Iterator[Tuple[Any, Any]]:
        """The others, and what is read of each."""
        for image in images:
            try:
                content = read(image)
            except (OSError, ValueError) as error:
                self(image, error)
            else:
                yield image, content

    def end(self, number: int) -> None:
        """Exit status 1 if there are any, of a number of images."""
        if self:
            why = f'{self.last}; ' if len(self) == number else ''
            sys.exit(f'error: {why}{len(self)} of {number} images were '
                     'skipped, see above')


def say(text: str) -> None:
    """Print it, from the first process of each machine only."""
    if os.environ.get('LOCAL_RANK', '0') == '0':
        print(text, flush=True)


def make_folder(path: Path) -> None:
    """Where results will go, before what takes long begins.

    Raises:
        ValueError: If it cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f'cannot write into {path}: {error.strerror}. '
                         'Choose another folder') from None


def require_output(target: str, *sources: str) -> None:
    """Check where a file will be written, before what takes long begins.

    Args:
        target (str): Its path.
        *sources (str): What is read, or written as well.

    Raises:
        ValueError: If it is a folder, or one of the sources, or cannot be
            written there.
    """
    if osp.isdir(target):
        raise ValueError(f'{target} is a folder: give a file to write')
    if osp.realpath(target) in map(osp.realpath, sources):
        raise ValueError(f'{target} would be written over: give another file '
                         'to write')
    make_folder(Path(target).parent)


def _number(kind: type, text: str, low: int, high: float, words: str) -> Any:
    """A number from ``low`` to ``high``, which ``words`` say."""
    try:
        value = kind(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ArgumentTypeError(f'{text!r} is not {words}')
    return value


def positive_int(text: str) -> int:
    """A number of things, for ``type=`` of an argument."""
    value = _number(int, text, 1, math.inf, 'a whole number above 0')
    if value > LARGEST:
        raise ArgumentTypeError(f'{text!r} is more than {LARGEST}')
    return value


def thread_count(text: str) -> int:
    """A number of threads, for ``type=`` of an argument."""
    from mmfasternet.deploy.engines import MOST_THREADS
    value = positive_int(text)
    if value > MOST_THREADS:
        raise ArgumentTypeError(f'{text!r} is more than {MOST_THREADS}, the '
                                'most on this machine')
    return value


def seed(text: str) -> int:
    """A seed, for ``type=`` of an argument."""
    return _number(int, text, 0, LARGEST,
                   f'a whole number from 0 to {LARGEST}')


def share(text: str) -> float:
    """A number from 0 to 1, for ``type=`` of an argument."""
    return _number(float, text, 0, 1, 'a number from 0 to 1')


def tool_parser(description: str) -> ArgumentParser:
    """The parser of each tool and demo; a flag that all share belongs here.

    Args:
        description (str): What the tool does, shown as it is broken in lines.
    """
    return ArgumentParser(
        description=description, formatter_class=RawDescriptionHelpFormatter)


def add_cfg_options(parser: ArgumentParser) -> None:
    """``--cfg-options``, for :func:`mmfasternet.config.load_config`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings, as key=value; a name that the config assigns '
        'at its top level (max_epochs=50) counts wherever it is used, a '
        'dotted one (model.backbone.arch=t2) at that place. Lists are '
        'key="[a,b]" or key=a,b, nested ones key="[(a,b),(c,d)]", quoted')


def add_launcher(parser: ArgumentParser) -> None:
    """``--launcher`` and the rank that old launchers pass."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0,
        help='passed by launchers older than torchrun, which sets LOCAL_RANK')


def set_local_rank(args: Namespace) -> None:
    """Let MMEngine find the rank where torchrun would have put it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def add_checkpoint(parser: ArgumentParser, exported: bool = True,
                   optional: bool = False) -> None:
    """The positional ``config`` and ``checkpoint``.

    Args:
        parser (ArgumentParser): Changed in place.
        exported (bool): Whether an exported file will do as well. Defaults
            to True.
        optional (bool): Whether the checkpoint may be left out, and only a
            checkpoint will do. Defaults to False.
    """
    # here, as in add_engine: that package imports mmyolo
    from mmfasternet.deploy.engines import EXPORTED
    parser.add_argument('config', help='config file path')
    if optional:
        parser.add_argument(
            'checkpoint', nargs='?',
            help='checkpoint file or URL (default: initial weights)')
        return
    also = ', or a file that tools/deploy/export.py wrote ' \
        f'({", ".join(EXPORTED)})' if exported else ''
    parser.add_argument('checkpoint', help=f'checkpoint file or URL{also}')


def add_engine(parser: ArgumentParser,
               exported_only: bool = False,
               threads: bool = True) -> None:
    """``--backend``, ``--precision`` and ``--threads``.

    Args:
        parser (ArgumentParser): Changed in place.
        exported_only (bool): Leave out the engines that run no files.
            Defaults to False.
        threads (bool): Whether there is ``--threads``. Defaults to True.
    """
    from mmfasternet.deploy.engines import ENGINES
    engines = [e for e in ENGINES.values() if e.suffix or not exported_only]
    parser.add_argument(
        '--backend',
        choices=[e.name for e in engines],
        help='what runs the network, in its deploy form (default: what an '
        'exported file is for; a checkpoint runs in PyTorch)')
    parser.add_argument(
        '--precision',
        choices=list(dict.fromkeys(p for e in engines for p in e.precisions)),
        default='fp32',
        help='what the backend computes in (default: fp32)')
    if threads:
        parser.add_argument(
            '--threads',
            type=thread_count,
            help='of the backend (default: its choice)')


def add_device(parser: ArgumentParser, default: Optional[str] = 'cpu') -> None:
    """``--device``; ``default`` None is the best one there is."""
    parser.add_argument(
        '--device',
        default=default,
        help=f'e.g. cuda:0 (default: {default or "the best there is"})')


def add_score_thr(parser: ArgumentParser) -> None:
    """``--score-thr`` of what is shown."""
    parser.add_argument(
        '--score-thr',
        type=share,
        default=0.3,
        help='lowest score of a box that is shown (default: 0.3)')


def add_batch_size(parser: ArgumentParser) -> None:
    """``--batch-size``."""
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=1,
        help='images per forward pass')


def set_work_dir(cfg: Config, args: Namespace) -> None:
    """The command line wins over the config, the config over the default.

    Args:
        cfg (Config): Gets ``work_dir``.
        args (Namespace): With ``work_dir`` and ``config``.
    """
    if args.work_dir == '':  # of a variable of the shell that is not set
        sys.exit('error: --work-dir is empty: name a folder, or leave it out')
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs',
                                osp.splitext(osp.basename(args.config))[0])
    with clear_errors():
        make_folder(Path(cfg.work_dir))
