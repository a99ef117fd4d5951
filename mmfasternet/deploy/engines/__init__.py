# SPDX-License-Identifier: Apache-2.0
"""The engines that run networks: one row each, read by every tool.

A new engine is a row of :data:`ENGINES`, a test, and a module of its name
beside this file with the functions ``open``, ``write``, ``operators`` and, if
it has int8, ``quantize``, which :class:`Engine` calls. To import this package
imports none of the engines, and no PyTorch.
"""
import logging
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

# with a million PyTorch crashes, with 3,000 ONNX Runtime hangs
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
KEY = 'mmfasternet'  # of the text that is written into exported files
OPSET = 18  # the first of PyTorch's exporter, read by every engine here
# tells by its name whether a convolution stays in float
Keep = Callable[[str], bool]


class Network:
    """A network that an engine has opened: called with an array for its one
    input, it gives the list of its outputs, the caller's to keep. Several
    threads may call it.

    Args:
        name (str): What it is, for messages.
        inputs (Sequence[tuple]): Of each input the shape, None for any size.
        dtype (str): Of the input, as NumPy names it.
        text (str, optional): What :meth:`Engine.write` was given to write.

    Raises:
        ValueError: If it has not one input.
    """

    def __init__(self, name: str, inputs: Sequence[Tuple[Optional[int], ...]],
                 dtype: str, text: Optional[str]) -> None:
        if len(inputs) != 1:
            raise ValueError(f'{name} has {len(inputs)} inputs, expected one: '
                             'the images')
        self.name, self.dtype, self.text = name, dtype, text
        self.shape, = inputs

    def __call__(self, images: 'np.ndarray') -> List['np.ndarray']:
        """One run."""
        raise NotImplementedError


@dataclass(frozen=True)
class Engine:
    """What runs a network."""

    name: str  #: What ``--backend`` calls it, and its module.
    title: str  #: What tables call it.
    #: Of the files that it writes and is the usual engine of; None if it runs
    #: modules of PyTorch.
    suffix: Optional[str]
    reads: Tuple[str, ...]  #: Suffixes of the files that it runs.
    precisions: Tuple[str, ...]  #: What it can compute in.
    quantised: Tuple[str, ...] = ()  #: The same of a file in int8.
    packages: Tuple[str, ...] = ()  #: What has to be importable to run.
    writers: Tuple[str, ...] = ()  #: What has to be importable to write.
    #: Whether boxes, and NMS if it is asked for, are part of its files; those
    #: of the others end with the maps that
    #: :func:`.deployed_detector.decode_maps` makes boxes of.
    decodes: bool = True
    dynamic: bool = True  #: Whether a file can be for any batch size and size.
    #: What the weights in its files can be.
    stored: Tuple[str, ...] = ('fp32', )
    #: Suffix of the file of weights beside it; None if they are in it.
    weights: Optional[str] = None

    @property
    def module(self) -> ModuleType:
        """Its functions; imports PyTorch or the packages of the engine."""
        for package in self.packages:
            require_package(package)
        return import_module(f'{__name__}.{self.name}')

    @property
    def is_installed(self) -> bool:
        """Whether it can run here."""
        return all(map(find_spec, self.packages))

    def open(self,
             path: Union[str, Path],
             precision: str = 'fp32',
             threads: Optional[int] = None,
             device: str = 'cpu') -> Network:
        """Open a file of any network with one input.

        Args:
            path (str | Path): The file.
            precision (str): What to compute in.
            threads (int, optional): Threads of one run. Defaults to None, one
                per core.
            device (str): Where to run.

        Raises:
            FileNotFoundError: If there is no such file.
            ImportError: If the engine is not installed.
            CheckpointError: If the file is damaged.
            ValueError: If engine, precision and file do not go together.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'exported detector not found: {path}')
        readers = readers_of(path)
        if self not in readers:
            raise ValueError(f'{path} is run by '
                             f'{" or ".join(e.name for e in readers)}, not by '
                             f'{self.name}')
        if precision not in (*self.precisions, *self.quantised):
            hint = ''.join(f', or --backend {e.name}, which has {precision}'
                           for e in readers if precision in e.precisions)
            raise ValueError(
                f'{self.title} computes {path} in '
                f'{" or ".join(self.precisions)}, got the precision '
                f'{precision}: take one of those{hint}')
        check_threads(threads)
        return self.module.open(path, precision, threads, device_name(device))

    def write(self,
              network: 'nn.Module',
              images: 'Tensor',
              path: Union[str, Path],
              text: Optional[str] = None,
              **options: Any) -> None:
        """Write any network with one input to a file of this engine.

        Args:
            network (nn.Module): In evaluation mode.
            images (Tensor): An input of it.
            path (str | Path): Where to, with the suffix of the engine.
            text (str, optional): To be found as :attr:`Network.text`.
            **options: Of the engine's ``write``, such as those of
                :func:`.onnx_model.to_onnx`.

        Raises:
            ImportError: If what writes it is not installed.
            ValueError: If the file would not be as it was asked for.
        """
        for package in self.writers:
            require_package(package)
        with _quiet('torch.onnx', 'torch.export', 'onnxscript'):
            self.module.write(network, images, Path(path), text, **options)

    def operators(self, path: Union[str, Path]) -> List[Tuple[str, str]]:
        """Name and kind of each operation of a file, in the order of runs."""
        return self.module.operators(Path(path))

    def quantize(self, path: Path, out: Path, batches: Sequence['np.ndarray'],
                 keep: Keep) -> None:
        """Write a file in int8, calibrated with batches of inputs; ``keep``
        tells by its name whether a convolution stays in float."""
        with _quiet('nncf', ''):
            self.module.quantize(path, out, batches, keep)


ENGINES: Dict[str, Engine] = {
    engine.name: engine
    for engine in (
        # fp16 is for GPUs
        Engine('pytorch', 'PyTorch', None, (), ('fp32', 'bf16', 'fp16')),
        Engine('onnxruntime', 'ONNX Runtime', '.onnx', ('.onnx', ),
               ('fp32', ), ('int8', ), ('onnxruntime', ),
               ('onnx', 'onnxscript')),
        Engine('openvino', 'OpenVINO', '.xml', ('.xml', '.onnx'),
               ('fp32', 'bf16'), ('int8', 'int8-bf16'), ('openvino', ),
               ('onnx', 'onnxscript', 'openvino'), weights='.bin'),
        # fp16 is what it stores and computes in on phones by default
        Engine('ncnn', 'ncnn', '.ncnn.param', ('.ncnn.param', ),
               ('fp32', 'fp16', 'bf16'), ('int8', ), ('ncnn', ), ('pnnx', ),
               decodes=False, stored=('fp32', 'fp16'), weights='.bin'),
        Engine('litert', 'LiteRT', '.tflite', ('.tflite', ), ('fp32', ),
               ('int8', ), ('ai_edge_litert', ), ('litert_torch', ),
               decodes=False, dynamic=False, stored=('fp32', 'fp16')),
    )
}
EXPORTED = tuple(e.suffix for e in ENGINES.values() if e.suffix)
# of the files that tools/deploy/quantize.py takes
QUANTISED = tuple(e.suffix for e in ENGINES.values() if e.quantised)


def require_followed(file: str, options: Optional[Dict[str, Any]],
                     prefix: str = '') -> None:
    """Check that no option of the command line is lost on an exported file.

    Args:
        file (str): It, or a checkpoint, which follows all.
        options (dict, optional): Of ``--cfg-options``, by name.
        prefix (str): How the names of those begin that are not followed.
            Defaults to '', all.

    Raises:
        ValueError: If there are some.
    """
    lost = [name for name in options or () if name.startswith(prefix)]
    if lost and file.endswith(EXPORTED):
        raise ValueError(
            f'--cfg-options {" ".join(lost)} would change nothing: {file} has '
            'what it was exported with. Export the checkpoint again with '
            'these options')


def engine_of(path: Union[str, Path]) -> Engine:
    """The engine that files of this suffix are written for.

    Raises:
        ValueError: If there is none.
    """
    return readers_of(path)[0]


def readers_of(path: Union[str, Path]) -> List[Engine]:
    """The engines that run files of this suffix, the usual one first.

    Raises:
        ValueError: If there is none.
    """
    name, suffix = str(path), Path(path).suffix
    found = [e for e in ENGINES.values() if name.endswith(e.reads)]
    if found:
        return sorted(found, key=lambda e: not name.endswith(str(e.suffix)))
    hint = ''
    if suffix in ('.torchscript', '.pt2'):  # which were written once
        hint = f'. Nothing here runs {suffix}; if you need one, see ' \
            'docs/en/deploy.md for the line that makes it'
    raise ValueError(f'{path} must end in {" or ".join(EXPORTED)}, as the '
                     f'files of tools/deploy/export.py do{hint}')


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Exporters and quantisers warn of what does not matter here, and log
    what they raise as well; ``names`` are their loggers."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def check_threads(threads: Optional[int]) -> None:
    """Refuse a number of threads that an engine would not survive.

    Raises:
        ValueError: If it is not 1 to :data:`MOST_THREADS`.
    """
    if threads is not None and not 0 < threads <= MOST_THREADS:
        raise ValueError(f'threads must be 1 to {MOST_THREADS} here, got '
                         f'{threads}')


def device_name(name: Union[str, int]) -> str:
    """``'cuda:0'`` for ``0``, and small letters for ``'CPU'``."""
    name = str(name)
    return f'cuda:{name}' if name.isdigit() else name.lower()


def require_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: Saying how to install it.
    """
    if find_spec(name) is None:
        raise ImportError(f'{name} is needed here and not installed: '
                          f'pip install {name}')
    return import_module(name)


def damaged(path: Union[str, Path], error: Exception) -> Exception:
    """What to raise where an engine cannot read a file."""
    from mmfasternet.checkpoint import CheckpointError
    reason = str(error).strip().splitlines()
    return CheckpointError(f'{path} cannot be read, it is damaged or of '
                           f'another version: {reason[-1] if reason else ""}')
