# SPDX-License-Identifier: Apache-2.0
"""How PyTorch's threads wait; measured with torch 2.13.0 and its libgomp.

An OpenMP thread that has done its part spins for about a millisecond before
it sleeps. If another process has the core of the thread that is waited for,
the spinning one takes what it could run on: beside one busy process on two
cores a training step took 20 times as long. On two cores with a load of 3 to
4, a step of FasterNet-T0 took 0.82 to 1.13 s as PyTorch comes, 0.50 to 0.61 s
with SPINS, and 0.46 to 0.59 s without any spinning.

The runtime reads its environment once, when PyTorch is imported. This module
imports the standard library only.
"""
import os

# turns of the loop, about ten microseconds; libgomp has 300,000
SPINS = '3000'


def wait_politely() -> None:
    """Let waiting threads sleep early, unless the user has chosen."""
    if not os.environ.keys() & {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'}:
        os.environ['GOMP_SPINCOUNT'] = SPINS
