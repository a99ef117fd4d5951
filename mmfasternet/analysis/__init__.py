# SPDX-License-Identifier: Apache-2.0
"""Measuring: speed (``benchmark``), accuracy (``comparison``), and what the
maps and gradients of a network look like (``inspection``)."""
