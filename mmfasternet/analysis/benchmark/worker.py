# SPDX-License-Identifier: Apache-2.0
"""The process that one contender lives in.

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
    try:
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def _random(shape, dtype):
    """The input, the same in every backend."""
    generator = np.random.default_rng(0)
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.random(shape, dtype=np.float32).astype(dtype)


# Each runtime imports its backend in __init__, which is not counted as memory,
# gets ready in load(), runs once to the end in run(), and gives in profile()
# of each layer its name, kind, seconds per run and bytes moved.
class OnnxRuntime:
    """Graph optimisation at its default, everything on."""

    def __init__(self, contender, path):
        import onnxruntime
        self.onnxruntime = onnxruntime
        self.contender, self.path = contender, path

    def load(self):
        self.session, self.feed = self._session()

    def _session(self, profile_prefix=None):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.contender['threads']
        options.inter_op_num_threads = 1
        if profile_prefix:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        session = self.onnxruntime.InferenceSession(
            self.path, options, providers=['CPUExecutionProvider'])
        entry, = session.get_inputs()
        dtype = {'tensor(uint8)': np.uint8, 'tensor(float16)': np.float16}.get(
            entry.type, np.float32)
        return session, {entry.name: _random(self.contender['shape'], dtype)}

    def run(self):
        self.session.run(None, self.feed)

    def profile(self, runs):
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            session, feed = self._session(os.path.join(folder, 'profile'))
            for _ in range(runs + 1):
                session.run(None, feed)
            with open(session.end_profiling()) as file:
                events = json.load(file)
        times, rows = defaultdict(list), {}
        for event in events:
            if event.get('cat') != 'Node' or 'op_name' not in event['args']:
                continue
            name = event['name'].replace('_kernel_time', '')
            times[name].append(event['dur'] / 1e6)
            sizes = (event['args'].get(key, 0) for key in (
                'activation_size', 'parameter_size', 'output_size'))
            rows.setdefault(
                name,
                dict(name=name, kind=event['args']['op_name'],
                     bytes=sum(map(int, sizes))))
        # nodes may share a name: so many values make up a run, and the first
        # run warms up
        return [
            dict(row, seconds=float(np.median(np.reshape(
                times[name], (runs + 1, -1)).sum(1)[1:])))
            for name, row in rows.items()
        ]


class OpenVINO:
    """The CPU plugin with its latency hint."""

    def __init__(self, contender, path):
        import openvino
        self.core = openvino.Core()
        self.contender, self.path = contender, path

    def load(self):
        self.request, self.image = self._request()

    def _request(self, **properties):
        model = self.core.read_model(self.path)
        model.reshape(self.contender['shape'])
        compiled = self.core.compile_model(
            model, 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_NUM_THREADS': self.contender['threads'],
                'INFERENCE_PRECISION_HINT':
                _PRECISION_HINTS[self.contender['precision']],
                **properties
            })
        hint = _PRECISION_HINTS[self.contender['precision']]
        got = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if got != hint:
            raise ValueError(f'OpenVINO runs in {got} on this machine, asked '
                             f'for {hint}')
        dtype = compiled.inputs[0].get_element_type().to_dtype()
        image = _random(self.contender['shape'], dtype)
        return compiled.create_infer_request(), image

    def run(self):
        self.request.infer([self.image], share_inputs=True, share_outputs=True)

    def profile(self, runs):
        request, image = self._request(PERF_COUNT=True)
        times, kinds = defaultdict(list), {}
        for _ in range(runs + 1):  # the first one warms up
            request.infer([image], share_inputs=True, share_outputs=True)
            for info in request.get_profiling_info():
                times[info.node_name].append(info.real_time.total_seconds())
                kinds[info.node_name] = f'{info.node_type} ({info.exec_type})'
        return [
            dict(name=name, kind=kinds[name], bytes=0,
                 seconds=float(np.median(values[1:])))
            for name, values in times.items() if any(values)
        ]


class PyTorch:
    """Eager or compiled; autocast for anything below fp32."""

    def __init__(self, contender, path):
        import torch
        self.torch = torch
        self.contender, self.path = contender, path
        self.device = torch.device(contender['device'])
        torch.set_num_threads(contender['threads'])
        if not path:
            from mmfasternet.analysis.benchmark import networks
            networks.import_models(contender['target'])
            self.networks = networks

    def load(self):
        torch = self.torch
        if self.path:
            network = torch.jit.load(self.path).eval()
        else:
            network = self.networks.build_network(
                self.contender['target'], self.contender['cfg_options'])
        image = torch.from_numpy(
            _random(self.contender['shape'], np.float32)).to(self.device)
        network = network.to(self.device)
        if self.contender['channels_last'] and image.dim() == 4:
            network = network.to(memory_format=torch.channels_last)
            image = image.contiguous(memory_format=torch.channels_last)
        self.network, self.image = network, image
        self.forward = network
        if self.contender['compile']:
            self.forward = torch.compile(network)
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)

    def run(self):
        with self.torch.inference_mode(), self._autocast():
            self.forward(self.image)
        self._wait()

    def _autocast(self):
        dtype = dict(bf16=self.torch.bfloat16, fp16=self.torch.float16).get(
            self.contender['precision'])
        if dtype is None:
            return nullcontext()
        return self.torch.autocast(self.device.type, dtype)

    def _wait(self):
        if self.device.type == 'cuda':
            self.torch.cuda.synchronize(self.device)

    def profile(self, runs):
        rows, begun, times = {}, {}, defaultdict(list)

        def before(name):

            def hook(module, args):
                self._wait()
                begun[name] = time.perf_counter()

            return hook

        def after(name):

            def hook(module, args, output):
                self._wait()
                times[name].append(time.perf_counter() - begun[name])
                rows[name] = self._row(name, module, args, output)

            return hook

        hooks = []
        for name, module in self.network.named_modules():
            if not any(module.children()):
                hooks += [module.register_forward_pre_hook(before(name)),
                          module.register_forward_hook(after(name))]
        total = []
        for _ in range(runs + 1):  # the first one warms up
            begin = time.perf_counter()
            self.run()
            total.append(time.perf_counter() - begin)
        for hook in hooks:
            hook.remove()
        for name, row in rows.items():
            # a module may be called several times in a run
            calls = np.reshape(times[name], (runs + 1, -1))
            row['seconds'] = float(np.median(calls.sum(1)[1:]))
            row['macs'] *= calls.shape[1]
            row['bytes'] *= calls.shape[1]
        rest = np.median(total[1:]) - sum(r['seconds'] for r in rows.values())
        return [
            *rows.values(),
            dict(name='(between the modules)', kind='functions', bytes=0,
                 macs=0, parameters=0, seconds=max(0., float(rest)))
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


def answer(request, state):
    """Do what a request asks for."""
    if request['ask'] == 'load':
        contender = request['contender']
        state['runtime'] = runtime = RUNTIMES[contender['backend']](
            contender, request['path'])
        with suppress(OSError):  # let the peak start from here
            Path('/proc/self/clear_refs').write_text('5')
        state['before'] = _status('VmRSS')
        runtime.load()
        runtime.run()
        return {}
    runtime = state['runtime']
    if request['ask'] == 'profile':
        return dict(layers=runtime.profile(request['runs']))
    if request['ask'] == 'memory':
        if runtime.contender['device'] != 'cpu':
            torch = runtime.torch
            return dict(memory=torch.cuda.max_memory_allocated(runtime.device))
        return dict(memory=_status('VmHWM') - state['before'])
    # once untimed: the others have had the caches since
    runtime.run()
    seconds = []
    for _ in range(request['runs']):
        begin = time.perf_counter()
        runtime.run()
        seconds.append(time.perf_counter() - begin)
    return dict(seconds=seconds)


def main():
    """Answer the requests of the parent until there are no more."""
    # libraries print to stdout, and answers must not mix with that
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    state = {}
    for line in sys.stdin:
        try:
            result = answer(json.loads(line), state)
        except Exception as error:
            result = dict(error=f'{type(error).__name__}: {error}')
        print(json.dumps(result), file=answers, flush=True)


if __name__ == '__main__':
    # the folder of a script is searched first, and modules of other packages
    # are not to be found here
    del sys.path[0]
    main()
