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


def _random(shape, dtype):
    """The input, the same in every engine."""
    generator = np.random.default_rng(0)
    if dtype == 'uint8':
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.random(shape, dtype=np.float32).astype(dtype)


def _median(times, runs):
    """Seconds per run of what may be called several times in each of them;
    the first run warms up."""
    return float(np.median(np.reshape(times, (runs + 1, -1)).sum(1)[1:]))


class Runtime:
    """An engine with a network.

    Its engine is imported when it is made, which is not counted as memory;
    load() gets it ready, run() runs once to the end, and profile() gives of
    each layer its name, kind, seconds per run and bytes moved.
    """

    def __init__(self, candidate, path):
        self.engine = ENGINES[candidate['backend']].module
        self.candidate, self.path = candidate, path
        self.threads, self.shape = candidate['threads'], candidate['shape']

    def input(self):
        return _random(self.shape, self.network.dtype)


class OnnxRuntime(Runtime):
    """Graph optimisation at its default, everything on."""

    def load(self, **options):
        session = self.engine.open_session(
            self.path, self.threads, inter_op_num_threads=1, **options)
        self.network = self.engine.ONNXRuntimeNetwork(session, self.path)
        self.images = self.input()

    def run(self):
        self.network(self.images)

    def profile(self, runs):
        with tempfile.TemporaryDirectory() as folder:
            self.load(enable_profiling=True,
                      profile_file_prefix=os.path.join(folder, 'profile'))
            for _ in range(runs + 1):
                self.run()
            path = self.network.session.end_profiling()
            events = json.loads(Path(path).read_text())
        times, rows = defaultdict(list), {}
        for event in events:
            args = event.get('args', {})
            if event.get('cat') != 'Node' or 'op_name' not in args:
                continue
            name = event['name'].replace('_kernel_time', '')
            times[name].append(event['dur'] / 1e6)
            size = sum(int(args.get(key, 0)) for key in (
                'activation_size', 'parameter_size', 'output_size'))
            rows.setdefault(
                name, dict(name=name, kind=args['op_name'], bytes=size))
        return [dict(row, seconds=_median(times[name], runs))
                for name, row in rows.items()]


class OpenVINO(Runtime):
    """The CPU plugin with its latency hint."""

    def load(self, **properties):
        precision = self.candidate['precision']
        compiled = self.engine.compile_file(
            self.path, precision, self.threads, shape=self.shape,
            **properties)
        hint = self.engine.HINTS[precision]
        got = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if got != hint:
            raise ValueError(f'OpenVINO runs in {got} on this machine, asked '
                             f'for {hint}')
        self.network = self.engine.OpenVINONetwork(compiled, self.path, None)
        self.request = compiled.create_infer_request()
        self.images = self.input()

    def run(self):
        self.request.infer(
            [self.images], share_inputs=True, share_outputs=True)

    def profile(self, runs):
        self.load(PERF_COUNT=True)
        times, kinds = defaultdict(list), {}
        for _ in range(runs + 1):
            self.run()
            for info in self.request.get_profiling_info():
                times[info.node_name].append(info.real_time.total_seconds())
                kinds[info.node_name] = f'{info.node_type} ({info.exec_type})'
        return [
            dict(name=name, kind=kinds[name], bytes=0,
                 seconds=_median(values, runs))
            for name, values in times.items() if any(values)
        ]


class PyTorch(Runtime):
    """Eager or compiled; autocast for anything below fp32."""

    def __init__(self, candidate, path):
        super().__init__(candidate, path)
        import torch

        from mmfasternet.analysis.benchmark import build
        self.torch, self.build = torch, build
        build.import_models(candidate['target'])

    def load(self):
        candidate = self.candidate
        self.module = self.build.build_network(
            candidate['target'], json.loads(candidate['options']))
        self.network = self.engine.PyTorchNetwork(
            self.module, candidate['precision'], self.threads,
            candidate['device'], candidate['channels_last'],
            candidate['compile'])
        self.device = self.network.device
        self.images = self.input()
        if self.device.type == 'cuda':
            self.torch.cuda.reset_peak_memory_stats(self.device)

    def run(self):
        self.network(self.images)

    def _now(self):
        if self.device.type == 'cuda':
            self.torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def profile(self, runs):
        rows, begun, times = {}, {}, defaultdict(list)

        def hooks(name):

            def before(module, args):
                begun[name] = self._now()

            def after(module, args, output):
                times[name].append(self._now() - begun[name])
                rows[name] = self._row(name, module, args, output)

            return before, after

        with ExitStack() as stack:
            for name, module in self.module.named_modules():
                if not any(module.children()):
                    before, after = hooks(name)
                    stack.enter_context(
                        module.register_forward_pre_hook(before))
                    stack.enter_context(module.register_forward_hook(after))
            total = [timed(self.run)() for _ in range(runs + 1)]
        for name, row in rows.items():
            row['seconds'] = _median(times[name], runs)
            row['macs'] *= len(times[name]) // (runs + 1)
            row['bytes'] *= len(times[name]) // (runs + 1)
        rest = _median(total, runs) - sum(r['seconds'] for r in rows.values())
        return [
            *rows.values(),
            dict(name='(between the modules)', kind='functions', bytes=0,
                 macs=0, parameters=0, seconds=max(0., rest))
        ]

    def _row(self, name, module, args, output):
        """The last call of a module: kind, MACs, parameters, bytes."""
        kind, macs = type(module).__name__, 0
        weight = getattr(module, 'weight', None)
        tensors = [t for t in (*args, output, weight)
                   if isinstance(t, self.torch.Tensor)]
        if kind in ('Conv2d', 'Linear', 'ConvTranspose2d'):
            sides = args[0] if kind == 'ConvTranspose2d' else output
            macs = sides.numel() * weight[0].numel()
        if 'Conv' in kind:
            kernel = 'x'.join(map(str, module.kernel_size))
            kind += f' {kernel} {module.in_channels}->{module.out_channels}'
            if module.groups > 1:
                kind += f' in {module.groups} groups'
        return dict(name=name, kind=kind, macs=macs,
                    parameters=sum(p.numel() for p in module.parameters()),
                    bytes=sum(t.numel() * t.element_size() for t in tensors))


RUNTIMES = dict(onnxruntime=OnnxRuntime, openvino=OpenVINO, pytorch=PyTorch)


class Worker:
    """Answers requests by the method of their name."""

    def load(self, candidate, path):
        self.runtime = RUNTIMES[candidate['backend']](candidate, path)
        with suppress(OSError):  # let the peak start from here
            Path('/proc/self/clear_refs').write_text('5')
        self.before = _status('VmRSS')
        self.runtime.load()
        self.runtime.run()

    def run(self, runs):
        self.runtime.run()  # untimed: the others have had the caches since
        return [timed(self.runtime.run)() for _ in range(runs)]

    def profile(self, runs):
        return self.runtime.profile(runs)

    def memory(self):
        if self.runtime.candidate['device'] != 'cpu':
            cuda = self.runtime.torch.cuda
            return cuda.max_memory_allocated(self.runtime.device)
        return _status('VmHWM') - self.before


def main():
    """Answer the requests of the parent until there are no more."""
    # libraries print to stdout, and answers must not mix with that
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            method = getattr(worker, request.pop('ask'))
            answer = dict(answer=method(**request))
        except Exception as error:
            answer = dict(error=f'{type(error).__name__}: {error}')
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
