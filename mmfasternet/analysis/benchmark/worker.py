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
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
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


def _median(times, runs):
    """Seconds per run of what may be called several times in each of them;
    the first run warms up."""
    return float(np.median(np.reshape(times, (runs + 1, -1)).sum(1)[1:]))


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
        raise NotImplementedError

    def run(self):
        self.network(self.images)

    def time(self, runs):
        """Seconds of each run."""
        self.run()  # untimed: the others have had the caches since
        return [timed(self.run)() for _ in range(runs)]

    def profile(self, runs):
        """Name, kind, seconds per run and bytes moved of each layer."""
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

    def profile(self, runs):
        with tempfile.TemporaryDirectory() as folder:
            network = self.open(
                enable_profiling=True,
                profile_file_prefix=os.path.join(folder, 'profile'))
            for _ in range(runs + 1):
                network(self.images)
            path = network.session.end_profiling()
            events = json.loads(Path(path).read_text())
        times, rows = defaultdict(list), {}
        for event in events:
            args = event.get('args', {})
            if event.get('cat') != 'Node' or 'op_name' not in args:
                continue
            name = event['name'].replace('_kernel_time', '')
            times[name].append(event['dur'] / 1e6)
            rows[name] = dict(name=name, kind=args['op_name'], bytes=sum(
                int(args.get(f'{key}_size', 0))
                for key in ('activation', 'parameter', 'output')))
        return [dict(row, seconds=_median(times[name], runs))
                for name, row in rows.items()]


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

    def profile(self, runs):
        request = self.open(PERF_COUNT=True).compiled.create_infer_request()
        times, kinds = defaultdict(list), {}
        for _ in range(runs + 1):
            request.infer([self.images])
            for info in request.get_profiling_info():
                times[info.node_name].append(info.real_time.total_seconds())
                kinds[info.node_name] = f'{info.node_type} ({info.exec_type})'
        return [dict(name=name, kind=kinds[name], bytes=0,
                     seconds=_median(values, runs))
                for name, values in times.items() if any(values)]


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

    def profile(self, runs):
        times, sizes, begun = defaultdict(list), Counter(), {}

        def now():
            if self.on_gpu:
                self.torch.cuda.synchronize(self.network.device)
            return time.perf_counter()

        def before(module, args):
            begun[module] = now()

        def after(module, args, output):
            times[module].append(now() - begun[module])
            sizes[module] += sum(
                t.numel() * t.element_size()
                for t in (*args, output, getattr(module, 'weight', None))
                if isinstance(t, self.torch.Tensor))

        names = {module: name for name, module in self.built.named_modules()
                 if not any(module.children())}
        with ExitStack() as stack:
            for module in names:
                stack.enter_context(module.register_forward_pre_hook(before))
                stack.enter_context(module.register_forward_hook(after))
            total = [timed(self.run)() for _ in range(runs + 1)]
        rows = [dict(name=names[module], kind=_kind(module),
                     bytes=sizes[module] // (runs + 1),
                     seconds=_median(taken, runs))
                for module, taken in times.items()]
        rest = _median(total, runs) - sum(row['seconds'] for row in rows)
        return [*rows, dict(name='(between the modules)', kind='functions',
                            bytes=0, seconds=max(0., rest))]


def _kind(module):
    kind = type(module).__name__
    if 'Conv' in kind:
        kernel = 'x'.join(map(str, module.kernel_size))
        kind += f' {kernel} {module.in_channels}->{module.out_channels}'
        if module.groups > 1:
            kind += f' in {module.groups} groups'
    return kind


RUNTIMES = dict(onnxruntime=OnnxRuntime, openvino=OpenVINO, pytorch=PyTorch)


def main():
    """Answer the requests of the parent until there are no more."""
    # libraries print to stdout, and answers must not mix with that
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    candidate, path = json.loads(sys.argv[1])
    runtime = RUNTIMES[candidate['backend']](candidate, path)
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
