# SPDX-License-Identifier: Apache-2.0
"""Tacit under PyTorch: compressed gradients for DDP, over whatever torch.distributed moves bytes with.

    import tacit.torch
    compression = tacit.torch.compress(ddp_model, "onebit+ef", warmup_steps=200)
"""

from .codec import Bundle, Codec
from .ddp import Compression, compress

__all__ = ["Bundle", "Codec", "Compression", "compress"]
