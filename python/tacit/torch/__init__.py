# SPDX-License-Identifier: Apache-2.0
"""Tacit under PyTorch: compressed gradients for DDP and FSDP2, over whatever torch.distributed moves bytes with.

    import tacit.torch
    compression = tacit.torch.compress(model, "onebit+ef", warmup_steps=200)
"""

from __future__ import annotations

import weakref

import torch
from torch.nn.parallel import DistributedDataParallel

from . import settings
from .codec import Bundle, Codec, Nonfinite
from .ddp import Compression
from .fsdp import FSDPCompression
from .moe import TokenExchange
from .optim import OneBitAdam

__all__ = ["Bundle", "Codec", "Compression", "FSDPCompression", "OneBitAdam", "TokenExchange", "compress"]

_compressed: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def compress(
    model: torch.nn.Module,
    spec: str | None = None,
    *,
    parameters: str | None = None,
    warmup_steps: int = 0,
    nonfinite: Nonfinite = "error",
    strict: bool = False,
    seed: int = 0,
) -> Compression | FSDPCompression:
    """Has a model's gradients averaged compressed, by `spec` ("topk:ratio=0.01+ef": see doc/concepts.md).

    Collective: once, on all ranks alike, before the first forward pass.

    warmup_steps: so many steps of gradients are dense first. nonfinite: what NaN and infinity do: "error" has backward() raise on all
    ranks when it has ended, and leaves memory as it was, "skip" takes them for zero, "pass" lets them through. seed: of random rounding.

    A DistributedDataParallel model: spec is "onebit+ef" unless given. strict: after an error memory is as it was to the bit, for twice
    the memory.

    A model of fully_shard() (FSDP2): spec, of gradients, is "rotq:bits=4" unless given; `parameters`, of parameters where they are
    gathered, is "qsgd:bits=8" unless given, and "none" sends them as they are. Both are blockwise specs (not topk, randk, powersgd).
    """
    settings.check(
        warmup_steps=warmup_steps, nonfinite=nonfinite, strict=strict, seed=seed, spec=spec, parameters=parameters
    )
    if model in _compressed:
        raise ValueError("this model's gradients are compressed already")
    compression = _compress(model, spec, parameters, warmup_steps, nonfinite, strict, seed)
    _compressed.add(model)
    return compression


def _compress(
    model: torch.nn.Module,
    spec: str | None,
    parameters: str | None,
    warmup_steps: int,
    nonfinite: Nonfinite,
    strict: bool,
    seed: int,
) -> Compression | FSDPCompression:
    devices = {parameter.device for parameter in model.parameters()}
    if isinstance(model, DistributedDataParallel):
        if len(devices) != 1:
            raise ValueError(f"parameters on one device are needed, not on {', '.join(sorted(map(str, devices)))}")
        if parameters is not None:
            raise TypeError("parameters are gathered by FSDP only: DDP has no use for `parameters`")
        spec = "onebit+ef" if spec is None else spec
        Bundle([Codec("spec", (64, 64), spec, device=devices.pop())])  # or it would be refused in the middle of a backward pass
        return Compression(model, spec, warmup_steps=warmup_steps, nonfinite=nonfinite, strict=strict, seed=seed)
    if strict:
        raise ValueError("strict is for DistributedDataParallel: FSDP's exchanges have no such memory")
    spec = "rotq:bits=4" if spec is None else spec
    parameters = "qsgd:bits=8" if parameters is None else parameters
    for device in devices:
        Bundle([Codec("spec", (64, 64), spec, device=device)], kind="reduce_scatter", owners=[0])
        Bundle([Codec("spec", (64, 64), parameters, device=device)], kind="allgather", owners=[0])
    return FSDPCompression(
        model,
        spec,
        None if parameters == "none" else parameters,
        seed=seed,
        warmup_steps=warmup_steps,
        nonfinite=nonfinite,
    )
