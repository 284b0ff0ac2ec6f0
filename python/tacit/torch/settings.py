# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything runs: settings, that all ranks have the same, and that a state belongs to what loads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from .codec import NONFINITE


def check(*, warmup_steps: int, nonfinite: str, strict: bool, seed: int, **specs: str | None) -> None:
    for name, spec in specs.items():
        if spec is not None and not isinstance(spec, str):
            raise TypeError(f"{name} is a text such as 'onebit+ef', not {spec!r}")
    for name, value, most in (("warmup_steps", warmup_steps, 2**63), ("seed", seed, 2**64)):
        if type(value) is not int or not 0 <= value < most:
            raise ValueError(f"{name} is a whole number from 0 on, not {value!r}")
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite is one of {', '.join(NONFINITE)}, not {nonfinite!r}")
    if type(strict) is not bool:
        raise ValueError(f"strict is True or False, not {strict!r}")


def agree(group: dist.ProcessGroup | None, device: torch.device, settings: Mapping[str, str | int | bool | None]) -> None:
    """Collective, on tensors of `device`. Ranks that go on with different settings would wait for each other."""
    everybody: list[dict[str, Any]] = [json.loads(text) for text in gather(json.dumps(settings), group, device)]
    for rank, theirs in enumerate(everybody):
        for name in {**everybody[0], **theirs}:
            if theirs.get(name) != everybody[0].get(name):
                raise ValueError(
                    f"all ranks need the same settings: {name} is {everybody[0].get(name)!r} on rank 0 and {theirs.get(name)!r} "
                    f"on rank {rank}"
                )


def gather(text: str, group: dist.ProcessGroup | None, device: torch.device) -> list[str]:
    """All ranks' texts. PyTorch's all_gather_object() would need NumPy, which PyTorch itself does without."""
    mine = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([mine.numel()], device=device), group)
    most = max(int(size) for size in sizes)
    texts = [torch.zeros(most, dtype=torch.uint8, device=device) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(mine, (0, most - mine.numel())), group)
    return [bytes(theirs[: int(size)].tolist()).decode() for theirs, size in zip(texts, sizes)]


def expect(state: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Whether a state is of what loads it."""
    for name, value in here.items():
        if name not in state:
            raise ValueError(f"the state has no '{name}': it is of something else, or of another version")
        if state[name] != value:
            raise ValueError(f"the state is of {name} {state[name]!r}, this is of {name} {value!r}")
