# SPDX-License-Identifier: Apache-2.0
"""The process that one candidate lives in.

It imports the engine that it measures and no other, for memory is measured
too: PyTorch is imported where PyTorch runs. Each line that comes in is a
request as JSON, each line that goes out its answer.
"""
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np

from mmfasternet.analysis.timing import timed
from mmfasternet.deploy.engines import ENGINES


def _status(field):
    """Bytes of the process, by the kernel's name; 0 where there is none."""
    with suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return 0


class Runtime:
    """An engine with a network; requests name one of its methods."""

    def __init__(self, candidate, path):
        self.candidate = candidate  # the fields of a Candidate
        self.path = path  # the file to read, None to build the network

    def load(self):
        """Get ready; what is imported for it does not count as memory."""
        self.prepare()
        with suppress(OSError):  # let the peak start from here
            Path('/proc/self/clear_refs').write_text('5')
        self.before = _status('VmRSS')
        self.network = self.open()
        shape, dtype = self.candidate['shape'], self.network.dtype
        # the same in every engine
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, shape, np.uint8) if \
            dtype == 'uint8' else generator.random(shape, 'f4').astype(dtype)
        self.run()

    def prepare(self):
        """Import all that :meth:`open` needs."""
        self.engine = ENGINES[self.candidate['backend']].module

    def open(self, **options):
        """The network of the engine, by its module of deploy.engines."""
        return self.engine.open(Path(self.path), *(
            self.candidate[key] for key in ('precision', 'threads', 'device')))

    def run(self):
        self.network(self.images)

    def time(self, runs):
        """Seconds of each run."""
        self.run()  # untimed: the others have had the caches since
        return [timed(self.run)() for _ in range(runs)]

    def profile(self, runs):
        """Name, kind, seconds per run and bytes moved of each layer; a run
        may call one several times, and the first run warms up."""
        calls = defaultdict(list)
        for name, kind, *figures in self.calls(runs + 1):
            calls[name, kind].append(figures)
        return [
            dict(name=name, kind=kind, bytes=sum(sizes) // (runs + 1),
                 seconds=float(np.median(
                     np.reshape(seconds, (runs + 1, -1)).sum(1)[1:])))
            for (name, kind), (seconds, sizes) in (
                (key, zip(*values)) for key, values in calls.items())
            if any(seconds)
        ]

    def calls(self, runs):
        """Name, kind, seconds and bytes moved of each call of a layer."""
        raise NotImplementedError

    def memory(self):
        """Peak in bytes, above what there was before the network."""
        return _status('VmHWM') - self.before


class OnnxRuntime(Runtime):
    """Graph optimisation at its default, everything on."""

    def open(self, **options):
        session = self.engine.open_session(
            self.path, self.candidate['threads'], **options)
        return self.engine.ONNXRuntimeNetwork(session, self.path)

    def calls(self, runs):
        with tempfile.TemporaryDirectory() as folder:
            network = self.open(
                enable_profiling=True,
                profile_file_prefix=os.path.join(folder, 'profile'))
            for _ in range(runs):
                network(self.images)
            path = network.session.end_profiling()
            events = json.loads(Path(path).read_text())
        for event in events:
            args = event.get('args', {})
            if event.get('cat') == 'Node' and 'op_name' in args:
                yield (event['name'].replace('_kernel_time', ''),
                       args['op_name'], event['dur'] / 1e6,
                       sum(int(args.get(f'{key}_size', 0))
                           for key in ('activation', 'parameter', 'output')))


class OpenVINO(Runtime):
    """The CPU plugin with its latency hint."""

    def open(self, **properties):
        precision = self.candidate['precision']
        compiled = self.engine.compile_file(
            self.path, precision, self.candidate['threads'],
            shape=self.candidate['shape'], **properties)
        hint = self.engine.HINTS[precision]
        got = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if got != hint:
            raise ValueError(f'OpenVINO runs in {got} on this machine, asked '
                             f'for {hint}')
        return self.engine.OpenVINONetwork(compiled, self.path, None)

    def calls(self, runs):
        request = self.open(PERF_COUNT=True).compiled.create_infer_request()
        for _ in range(runs):
            request.infer([self.images])
            for info in request.get_profiling_info():
                yield (info.node_name, f'{info.node_type} ({info.exec_type})',
                       info.real_time.total_seconds(), 0)


class PyTorch(Runtime):
    """Eager or compiled; autocast for anything below fp32."""

    def prepare(self):
        super().prepare()
        import torch

        from mmfasternet.analysis.benchmark.build import build_network
        self.torch, self.build = torch, build_network
        if not self.candidate['target'].startswith(('product:', 'copy:')):
            import mmfasternet.models  # noqa: F401

    def open(self):
        """The network as it is, not the deploy form."""
        candidate = self.candidate
        self.built = self.build(
            candidate['target'], json.loads(candidate['options']))
        network = self.engine.PyTorchNetwork(
            self.built, *(candidate[key] for key in (
                'precision', 'threads', 'device', 'channels_last', 'compile')))
        self.on_gpu = network.device.type == 'cuda'
        if self.on_gpu:
            self.torch.cuda.reset_peak_memory_stats(network.device)
        return network

    def memory(self):
        if self.on_gpu:
            return self.torch.cuda.max_memory_allocated(self.network.device)
        return super().memory()

    def calls(self, runs):
        names = {module: name for name, module in self.built.named_modules()
                 if not any(module.children())}
        begun, calls = {}, []  # of this run

        def now():
            if self.on_gpu:
                self.torch.cuda.synchronize(self.network.device)
            return time.perf_counter()

        def before(module, args):
            if module in names:
                begun[module] = now()

        def after(module, args, output):
            if module in names:
                seconds = now() - begun[module]
                tensors = *args, output, getattr(module, 'weight', None)
                calls.append((module, seconds, sum(
                    t.numel() * t.element_size() for t in tensors
                    if isinstance(t, self.torch.Tensor))))

        hooks = self.torch.nn.modules.module
        with hooks.register_module_forward_pre_hook(before), \
                hooks.register_module_forward_hook(after):
            for _ in range(runs):
                calls.clear()
                rest = timed(self.run)()
                for module, seconds, size in calls:
                    yield names[module], _kind(module), seconds, size
                    rest -= seconds
                yield '(between the modules)', 'functions', max(0., rest), 0


def _kind(module):
    kind = type(module).__name__
    if 'Conv' in kind:
        kernel = 'x'.join(map(str, module.kernel_size))
        kind += f' {kernel} {module.in_channels}->{module.out_channels}'
        if module.groups > 1:
            kind += f' in {module.groups} groups'
    return kind


# those of engines with a profiler; of any other it is Runtime itself
RUNTIMES = dict(onnxruntime=OnnxRuntime, openvino=OpenVINO, pytorch=PyTorch)


def main():
    """Answer the requests of the parent until there are no more."""
    # libraries print to stdout, and answers must not mix with that
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    candidate, path = json.loads(sys.argv[1])
    runtime = RUNTIMES.get(candidate['backend'], Runtime)(candidate, path)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(runtime, request.pop('ask'))(**request)
            answer = dict(answer=answer)
        except Exception as error:
            answer = dict(error=f'{type(error).__name__}: {error}')
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
