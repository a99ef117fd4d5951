# SPDX-License-Identifier: Apache-2.0
"""The process that one candidate lives in.

It is run as a script, so that a process that measures ONNX Runtime imports
ONNX Runtime and not this package, which imports PyTorch. Each line that comes
in is a request as JSON, each line that goes out its answer.
"""
import json
import os
import sys
import time
from collections import defaultdict
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np

_PRECISION_HINTS = dict(
    fp32='f32', bf16='bf16', int8='f32', **{'int8-bf16': 'bf16'})


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
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.random(shape, dtype=np.float32).astype(dtype)


def _median(times, runs):
    """Seconds per run of what may be called several times in each of them;
    the first run warms up."""
    return float(np.median(np.reshape(times, (runs + 1, -1)).sum(1)[1:]))


# Each runtime imports its engine in __init__, which is not counted as memory,
# gets ready in load(), runs once to the end in run(), and gives in profile()
# of each layer its name, kind, seconds per run and bytes moved.
class OnnxRuntime:
    """Graph optimisation at its default, everything on."""

    def __init__(self, candidate, path):
        import onnxruntime
        self.onnxruntime = onnxruntime
        self.candidate, self.path = candidate, path

    def load(self):
        self.session, self.feed = self._session()

    def _session(self, profile_prefix=None):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.candidate['threads']
        options.inter_op_num_threads = 1
        if profile_prefix:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        session = self.onnxruntime.InferenceSession(
            self.path, options, providers=['CPUExecutionProvider'])
        entry, = session.get_inputs()
        dtype = {'tensor(uint8)': np.uint8, 'tensor(float16)': np.float16}.get(
            entry.type, np.float32)
        return session, {entry.name: _random(self.candidate['shape'], dtype)}

    def run(self):
        self.session.run(None, self.feed)

    def profile(self, runs):
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            session, feed = self._session(os.path.join(folder, 'profile'))
            for _ in range(runs + 1):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text())
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


class OpenVINO:
    """The CPU plugin with its latency hint."""

    def __init__(self, candidate, path):
        import openvino
        self.core = openvino.Core()  # the only one of this process
        self.candidate, self.path = candidate, path

    def load(self):
        self.request, self.image = self._request()

    def _request(self, **properties):
        model = self.core.read_model(self.path)
        model.reshape(self.candidate['shape'])
        hint = _PRECISION_HINTS[self.candidate['precision']]
        compiled = self.core.compile_model(
            model, 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_NUM_THREADS': self.candidate['threads'],
                'INFERENCE_PRECISION_HINT': hint,
                **properties
            })
        got = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if got != hint:
            raise ValueError(f'OpenVINO runs in {got} on this machine, asked '
                             f'for {hint}')
        dtype = compiled.inputs[0].get_element_type().to_dtype()
        image = _random(self.candidate['shape'], dtype)
        return compiled.create_infer_request(), image

    def run(self):
        self.request.infer([self.image], share_inputs=True, share_outputs=True)

    def profile(self, runs):
        request, image = self._request(PERF_COUNT=True)
        times, kinds = defaultdict(list), {}
        for _ in range(runs + 1):
            request.infer([image], share_inputs=True, share_outputs=True)
            for info in request.get_profiling_info():
                times[info.node_name].append(info.real_time.total_seconds())
                kinds[info.node_name] = f'{info.node_type} ({info.exec_type})'
        return [
            dict(name=name, kind=kinds[name], bytes=0,
                 seconds=_median(values, runs))
            for name, values in times.items() if any(values)
        ]


class PyTorch:
    """Eager or compiled; autocast for anything below fp32."""

    def __init__(self, candidate, path):
        import torch

        from mmfasternet.analysis.benchmark import build
        self.torch, self.build = torch, build
        self.candidate = candidate
        self.device = torch.device(candidate['device'])
        torch.set_num_threads(candidate['threads'])
        build.import_models(candidate['target'])

    def load(self):
        torch = self.torch
        network = self.build.build_network(self.candidate['target'],
                                           self.candidate['cfg_options'])
        image = torch.from_numpy(
            _random(self.candidate['shape'], np.float32)).to(self.device)
        network = network.to(self.device)
        if self.candidate['channels_last'] and image.dim() == 4:
            network = network.to(memory_format=torch.channels_last)
            image = image.contiguous(memory_format=torch.channels_last)
        self.network, self.image = network, image
        self.forward = network
        if self.candidate['compile']:
            self.forward = torch.compile(network)
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)

    def run(self):
        dtype = dict(bf16=self.torch.bfloat16, fp16=self.torch.float16).get(
            self.candidate['precision'])
        with self.torch.inference_mode(), nullcontext() if dtype is None \
                else self.torch.autocast(self.device.type, dtype):
            self.forward(self.image)
        self._wait()

    def _wait(self):
        if self.device.type == 'cuda':
            self.torch.cuda.synchronize(self.device)

    def profile(self, runs):
        rows, begun, times = {}, {}, defaultdict(list)

        def hooks(name):

            def before(module, args):
                self._wait()
                begun[name] = time.perf_counter()

            def after(module, args, output):
                self._wait()
                times[name].append(time.perf_counter() - begun[name])
                rows[name] = self._row(name, module, args, output)

            return before, after

        handles = []
        for name, module in self.network.named_modules():
            if not any(module.children()):
                before, after = hooks(name)
                handles += [module.register_forward_pre_hook(before),
                            module.register_forward_hook(after)]
        total = seconds_of(self.run, runs + 1)
        for handle in handles:
            handle.remove()
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


def seconds_of(function, runs):
    """Of each run."""
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return seconds


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
        return seconds_of(self.runtime.run, runs)

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
    # the folder of a script is searched first, and modules of other packages
    # are not to be found here
    del sys.path[0]
    main()
