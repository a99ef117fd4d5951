# SPDX-License-Identifier: Apache-2.0
"""How other projects name the tensors of a network, and the way to our names.

A layout of FasterNet's own weights belongs into ``fasternet``, one of whole
detectors into ``detectors``; a file format into ``checkpoint.reading``.
"""
