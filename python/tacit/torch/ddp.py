# SPDX-License-Identifier: Apache-2.0
"""A communication hook for DistributedDataParallel.

Each bucket is a bundle, reduced beside the backward pass (exchange.py). Memory is kept by parameter, not by bucket: rebuilt buckets
lose nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .codec import Codec, Nonfinite
from .exchange import Bucket, Exchanges


class Compression:
    """What compress() has put on a model: its state for checkpoints, and what it has saved."""

    def __init__(
        self,
        model: DistributedDataParallel,
        spec: str,
        *,
        warmup_steps: int = 0,
        nonfinite: Nonfinite = "error",
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        group = model.process_group
        self.spec, self.warmup_steps, self.step = spec, warmup_steps, 0
        self._options: dict[str, Any] = {"nonfinite": nonfinite, "strict": strict, "seed": seed}
        self._group = group
        self._rank, self._ranks = dist.get_rank(group), dist.get_world_size(group)
        self._names = {id(parameter): name for name, parameter in model.module.named_parameters()}
        self._codecs: dict[str, Codec] = {}
        self._buckets: dict[tuple[str, ...], Bucket] = {}
        self._loaded: dict[str, torch.Tensor] = {}
        self._exchanges = Exchanges(group)
        model.register_comm_hook(self, _hook)

    # ---- The hook ----

    def _reduce(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        step = self.step
        if bucket.is_last():
            self.step += 1
        if step < self.warmup_steps:
            mean = bucket.buffer().div_(self._ranks)
            return dist.all_reduce(mean, group=self._group, async_op=True).get_future().then(lambda done: done.value()[0])
        parameters = bucket.parameters()
        names = tuple(self._names[id(parameter)] for parameter in parameters)
        if names not in self._buckets:
            dtype = bucket.buffer().dtype
            self._buckets[names] = Bucket([self._codec(name, parameter, dtype) for name, parameter in zip(names, parameters)])
        tensors = list(bucket.buffer().split([parameter.numel() for parameter in parameters]))
        return self._exchanges.start(self._buckets[names], step, tensors, bucket.buffer())

    def _codec(self, name: str, parameter: torch.Tensor, dtype: torch.dtype) -> Codec:
        if name not in self._codecs:
            codec = Codec(
                name,
                parameter.shape,
                self.spec,
                dtype=dtype,
                device=parameter.device,
                rank=self._rank,
                ranks=self._ranks,
                **self._options,
            )
            if name in self._loaded:
                codec.load(self._loaded.pop(name))
            self._codecs[name] = codec
        return self._codecs[name]

    # ---- Checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """This rank's memory: every rank keeps its own. Between steps."""
        self._exchanges.drain()
        codecs = {name: codec.save() for name, codec in self._codecs.items()}
        return {"spec": self.spec, "step": self.step, "rank": self._rank, "codecs": {**self._loaded, **codecs}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a rank's own state_dict() back, with the same spec and as many ranks."""
        self._exchanges.drain()
        if state["spec"] != self.spec or state["rank"] != self._rank:
            raise ValueError(
                f"the state is of rank {state['rank']} with '{state['spec']}', this is rank {self._rank} with '{self.spec}'"
            )
        if unknown := set(state["codecs"]) - set(self._names.values()):
            raise ValueError(f"the state has parameters that the model has not: {', '.join(sorted(unknown))}")
        for name, codec in self._codecs.items():
            codec.load(state["codecs"][name]) if name in state["codecs"] else codec.reset()
        self._loaded = {name: saved for name, saved in state["codecs"].items() if name not in self._codecs}
        self.step = state["step"]

    # ---- What it has saved ----

    def summary(self) -> str:
        """A table: what each module's gradients would have sent dense, what they have sent, and the time of encoding, exchanging
        and decoding, shared out by elements."""
        rows: dict[str, list[float]] = {}
        for bucket in self._buckets.values():
            codecs = bucket.bundle.codecs
            elements = sum(codec.count for codec in codecs) or 1
            messages = sum(bucket.bundle.sends) + (self._ranks - 1) * bucket.bundle.gathers
            for codec in codecs:
                row = rows.setdefault(codec.name.rpartition(".")[0] or codec.name, [0.0, 0.0, 0.0, 0.0])
                share = codec.count / elements
                row[0] += codec.count
                row[1] += bucket.steps * 2 * (self._ranks - 1) / self._ranks * codec.count * 4
                row[2] += bucket.steps * messages * share
                row[3] += bucket.seconds * share
        lines = [f"{'module':<40} {'elements':>12} {'dense MB':>12} {'sent MB':>12} {'ratio':>8} {'seconds':>9}"]
        for name, (count, dense, sent, seconds) in [*rows.items(), ("all", [sum(row[i] for row in rows.values()) for i in range(4)])]:
            ratio = dense / sent if sent else float("nan")
            lines.append(f"{name:<40} {count:>12.0f} {dense / 1e6:>12.2f} {sent / 1e6:>12.2f} {ratio:>8.1f} {seconds:>9.2f}")
        return "\n".join(lines)


def _hook(compression, bucket):  # type: ignore[no-untyped-def]  # DDP wants types themselves here, or none
    return compression._reduce(bucket)
