# SPDX-License-Identifier: Apache-2.0
"""The engines that run detectors: one row each, read by every tool."""
from dataclasses import dataclass
from typing import Dict, Optional, Tuple


@dataclass(frozen=True)
class Engine:
    """What runs a network.

    Attributes:
        name (str): What ``--backend`` calls it.
        title (str): What tables call it.
        suffix (str, optional): Of the files that it runs, None if it runs
            checkpoints.
        precisions (tuple[str]): What it can compute in.
        packages (tuple[str]): What has to be importable.
    """

    name: str
    title: str
    suffix: Optional[str]
    precisions: Tuple[str, ...]
    packages: Tuple[str, ...] = ()


ENGINES: Dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine('pytorch', 'PyTorch', None, ('fp32', 'bf16', 'fp16')),
        Engine('onnxruntime', 'ONNX Runtime', '.onnx', ('fp32', ),
               ('onnxruntime', )),
        Engine('openvino', 'OpenVINO', '.xml', ('fp32', 'bf16'),
               ('openvino', )),
    )
}
EXPORTED = tuple(e.suffix for e in ENGINES.values() if e.suffix)
