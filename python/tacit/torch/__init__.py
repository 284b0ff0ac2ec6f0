# SPDX-License-Identifier: Apache-2.0
"""Tacit under PyTorch: compressed gradients for DDP and FSDP2, over whatever torch.distributed moves bytes with.

    import tacit.torch
    compression = tacit.torch.compress(model, "onebit+ef", warmup_steps=200)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from .codec import Bundle, Codec
from .ddp import Compression
from .fsdp import FSDPCompression
from .optim import OneBitAdam

__all__ = ["Bundle", "Codec", "Compression", "FSDPCompression", "OneBitAdam", "compress"]


def compress(
    model: torch.nn.Module,
    spec: str | None = None,
    *,
    parameters: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Compression | FSDPCompression:
    """Has a model's gradients averaged compressed, by `spec` ("topk:ratio=0.01+ef": see doc/concepts.md).

    Call it once, on all ranks alike, before the first forward pass; seed is that of random rounding, the same on all ranks.

    A DistributedDataParallel model: spec is "onebit+ef" unless given. Options: warmup_steps, so many steps are dense first; nonfinite,
    what NaN and infinity in a gradient do: "error" raises on all ranks and leaves memory as it was, "skip" takes them for zero, "pass"
    lets them through; strict: as it was to the bit, for twice the memory.

    A model of fully_shard() (FSDP2): spec, of gradients, is "rotq:bits=4" unless given; `parameters`, of parameters where they are
    gathered, is "qsgd:bits=8" unless given, and "none" sends them as they are. Both are blockwise specs (not topk, randk, powersgd).
    Options: warmup_steps, so many steps of gradients are dense first; nonfinite, as above, for gradients and parameters.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if isinstance(model, DistributedDataParallel):
        if len(devices) != 1:
            raise ValueError(f"parameters on one device are needed, not on {', '.join(sorted(map(str, devices)))}")
        if parameters is not None:
            raise TypeError("parameters are gathered by FSDP only: DDP has no use for `parameters`")
        spec = "onebit+ef" if spec is None else spec
        Bundle([Codec("spec", (64, 64), spec, device=devices.pop())])  # or it would be refused in the middle of a backward pass
        return Compression(model, spec, seed=seed, **options)
    spec = "rotq:bits=4" if spec is None else spec
    parameters = "qsgd:bits=8" if parameters is None else parameters
    for device in devices:
        Bundle([Codec("spec", (64, 64), spec, device=device)], kind="reduce_scatter", owners=[0])
        Bundle([Codec("spec", (64, 64), parameters, device=device)], kind="allgather", owners=[0])
    return FSDPCompression(model, spec, None if parameters == "none" else parameters, seed=seed, **options)
