# SPDX-License-Identifier: Apache-2.0
"""Tacit for Python: compression with memory for programs that move their own bytes. PyTorch: see tacit.torch."""

from ._library import Status, TacitError, library

__version__ = library.tacit_version().decode()
__all__ = ["Status", "TacitError", "__version__"]
