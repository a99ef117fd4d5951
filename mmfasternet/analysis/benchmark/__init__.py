# SPDX-License-Identifier: Apache-2.0
"""Timing networks against each other: ``tools/analysis_tools/benchmark.py``.

``contenders`` says what runs and how, ``networks`` builds it, ``worker`` is
the process that one contender lives in, ``race`` lets these processes run in
turns, ``layers`` counts and profiles, ``report`` writes, and ``paper`` holds
the networks and figures of the FasterNet paper.
"""
