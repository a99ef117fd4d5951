# SPDX-License-Identifier: Apache-2.0
"""Which test runs which line, for :mod:`mutation`: plugins of pytest."""
import sys
import threading
import time
from pathlib import Path
from typing import Dict, List

import pytest
from mutants import Mutant

# what an audit hook is told where a process is started, or a server asked for
# one
STARTS = {'os.fork', 'os.posix_spawn', 'subprocess.Popen', 'socket.connect'}


class Coverage:
    """Of pytest: the lines of the package that each test runs, how long it
    takes, and whether it starts a process, of which no line is known."""

    def __init__(self, tree: Path) -> None:
        self.package = f'{tree}/mmfasternet/'
        self.tests: Dict[str, dict] = {}
        self.fixtures: Dict[str, set] = {}
        self.now: set = set()
        sys.addaudithook(lambda event, args: event in STARTS
                         and self.now.add(('', 0)))

    def trace(self, frame, event, arg):
        """Of functions only: who imports a module first is chance."""
        code = frame.f_code
        if code.co_filename.startswith(self.package) and code.co_flags & 1:
            self.now.add((code.co_filename[len(self.package):],
                          frame.f_lineno))
            return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        before, self.now = self.now, set()
        yield
        self.fixtures.setdefault(fixturedef.argname, set()).update(self.now)
        before.update(self.now)
        self.now = before

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.now, begin = set(), time.monotonic()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        threading.settrace(None)
        # what a fixture of a module does is done in its first test only
        self.now.update(*(self.fixtures.get(name, ())
                          for name in item.fixturenames))
        lines: Dict[str, list] = {}
        for path, line in sorted(self.now):
            lines.setdefault(path, []).append(line)
        self.tests[item.nodeid] = dict(
            seconds=time.monotonic() - begin, lines=lines)


class Selection:
    """Of pytest: these tests in this order, after those that are new."""

    def __init__(self, chosen: List[str], known: dict) -> None:
        self.order = {name: i for i, name in enumerate(chosen)}
        self.known = known

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order
             or item.nodeid not in self.known),
            key=lambda item: self.order.get(item.nodeid, -1))


def select_tests(mutant: Mutant, known: Dict[str, dict]) -> List[str]:
    """Those that run a line of it, file by file, the fast ones first; of a
    line that none does, as that of a default, those that run its file."""
    path = mutant.path[len('mmfasternet/'):]
    first, last = mutant.lines()

    def starts_process(test: dict) -> bool:
        return '' in test['lines']

    chosen = [name for name, test in known.items() if any(
        first <= line <= last for line in test['lines'].get(path, ()))]
    chosen = chosen or [n for n, x in known.items() if path in x['lines']]
    chosen = list(dict.fromkeys(chosen + [
        name for name, test in known.items() if starts_process(test)
    ])) or list(known)
    seconds: Dict[tuple, float] = {}
    keys = {n: (starts_process(known[n]), n.split('::')[0]) for n in chosen}
    for name, key in keys.items():
        seconds[key] = seconds.get(key, 0) + known[name]['seconds']
    return sorted(chosen, key=lambda name: (
        keys[name][0], seconds[keys[name]], keys[name],
        known[name]['seconds']))
