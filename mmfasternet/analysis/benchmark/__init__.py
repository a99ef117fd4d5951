# SPDX-License-Identifier: Apache-2.0
"""Timing networks against each other: ``tools/analysis_tools/benchmark.py``.

``candidates`` says what runs and how, ``build`` makes it, ``worker`` is the
process that one candidate lives in, ``race`` lets these processes run in
turns, ``layers`` counts what exported files compute, ``report`` writes, and
``paper`` holds the networks and figures of the FasterNet paper.
"""
