# SPDX-License-Identifier: Apache-2.0
"""Training detectors alike: ``tools/analysis_tools/compare.py``.

``runs`` trains and detects, ``report`` writes what was found.
"""
