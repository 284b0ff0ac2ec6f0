# SPDX-License-Identifier: Apache-2.0
"""A communication hook for DistributedDataParallel.

Each bucket is a bundle, reduced beside the backward pass (exchange.py). Memory is kept by parameter, not by bucket: rebuilt buckets
lose nothing. Who owns which part of a parameter follows from its bucket, and has to do with roundings: a training that goes on from a
checkpoint divides its first step, for which DDP has not yet built its buckets anew, as it was divided before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from . import settings
from .codec import DTYPES, Codec, Nonfinite
from .exchange import Bucket, Exchanges, Faults, ratio_text, remark


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
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.module.named_parameters()}
        self._codecs: dict[str, Codec] = {}
        self._buckets: dict[tuple[str, ...], Bucket] = {}
        self._loaded: dict[str, torch.Tensor] = {}
        self._layout: list[tuple[str, ...]] = []  # buckets of the last step, …
        self._next_layout: list[tuple[str, ...]] = []  # … and of the one that runs
        self._saved_layout: list[tuple[str, ...]] | None = None  # of the first step after loading; None: DDP's own
        self._held: list[tuple[torch.futures.Future[torch.Tensor], torch.Tensor]] = []
        self._held_tensors: dict[str, torch.Tensor] = {}
        for name, parameter in model.module.named_parameters():
            if parameter.requires_grad and parameter.dtype not in DTYPES:
                raise TypeError(f"parameter '{name}' is {parameter.dtype}, which is none of {', '.join(map(str, DTYPES))}")
        settings.agree(group, next(model.parameters()).device, {"spec": spec, "warmup_steps": warmup_steps, **self._options})
        self._faults = Faults()
        self._exchanges = Exchanges(group, self._faults)
        model.register_comm_hook(self, _hook)

    # ---- The hook ----

    def _reduce(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        step, buffer, parameters = self.step, bucket.buffer(), bucket.parameters()
        names = tuple(self._names[id(parameter)] for parameter in parameters)
        if bucket.index() == 0:  # the backward pass before this one may have been broken off
            self._next_layout, self._held, self._held_tensors = [], [], {}
        self._next_layout.append(names)
        if bucket.is_last():
            self.step += 1
            self._layout, self._next_layout = self._next_layout, []
        if step < self.warmup_steps:
            self._saved_layout = None  # DDP has built its buckets anew when a compressed step comes
            mean = buffer.div_(self._ranks)
            return dist.all_reduce(mean, group=self._group, async_op=True).get_future().then(lambda done: done.value()[0])
        self._faults.watch()
        tensors = dict(zip(names, buffer.split([parameter.numel() for parameter in parameters])))
        if self._saved_layout is None:
            return self._start(names, step, tensors, buffer)
        return self._hold(step, tensors, buffer, bucket.is_last())

    def _start(
        self, names: tuple[str, ...], step: int, tensors: dict[str, torch.Tensor], result: torch.Tensor
    ) -> torch.futures.Future[torch.Tensor]:
        if names not in self._buckets:
            self._buckets[names] = Bucket([self._codec(name, tensors[name]) for name in names])
        return self._exchanges.start(self._buckets[names], step, [tensors[name] for name in names], result)

    def _hold(
        self, step: int, tensors: dict[str, torch.Tensor], result: torch.Tensor, is_last: bool
    ) -> torch.futures.Future[torch.Tensor]:
        """Reduces by the saved layout, once all buckets are there."""
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(
            devices=[result.device] if result.device.type == "cuda" else []
        )
        self._held.append((future, result))
        self._held_tensors.update(tensors)
        if is_last:
            layout, held, have = self._saved_layout or [], self._held, self._held_tensors
            self._saved_layout, self._held, self._held_tensors = None, [], {}
            if sorted(have) != sorted(name for names in layout for name in names):
                layout = self._layout  # parameters are frozen that were not, or the other way round
            jobs = [self._start(names, step, have, have[names[0]]) for names in layout]

            def done(_: Any) -> None:
                for one, buffer in held:
                    one.set_result(buffer)

            torch.futures.collect_all(jobs).then(done)
        return future

    def _codec(self, name: str, tensor: torch.Tensor) -> Codec:
        if name not in self._codecs:
            codec = Codec(
                name,
                self._shapes[name],
                self.spec,
                dtype=tensor.dtype,
                device=tensor.device,
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
        return {
            **self._identity(),
            "step": self.step,
            "layout": self._layout if self._saved_layout is None else self._saved_layout,
            "shapes": {name: self._shapes[name] for name in (*self._loaded, *codecs)},
            "codecs": {**self._loaded, **codecs},
        }

    def _identity(self) -> dict[str, Any]:
        return {"spec": self.spec, "rank": self._rank, "ranks": self._ranks, "seed": self._options["seed"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a rank's own state_dict() back, with the same spec and as many ranks."""
        self._exchanges.drain()
        settings.expect(state, self._identity())
        for name, shape in state["shapes"].items():
            if name not in self._shapes:
                raise ValueError(f"the state has a parameter that the model has not: '{name}'")
            if shape != self._shapes[name]:
                raise ValueError(f"the state has '{name}' with the shape {shape}, the model with {self._shapes[name]}")
        for name, codec in self._codecs.items():
            codec.load(state["codecs"][name]) if name in state["codecs"] else codec.reset()
        self._loaded = {name: saved for name, saved in state["codecs"].items() if name not in self._codecs}
        self._saved_layout = state["layout"] if state["codecs"] else None
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
        ratios = []
        lines = [f"{'module':<40} {'elements':>12} {'dense MB':>12} {'sent MB':>12} {'ratio':>8} {'seconds':>9}"]
        for name, (count, dense, sent, seconds) in [*rows.items(), ("all", [sum(row[i] for row in rows.values()) for i in range(4)])]:
            ratios.append(ratio_text(dense, sent))
            lines.append(f"{name:<40} {count:>12.0f} {dense / 1e6:>12.2f} {sent / 1e6:>12.2f} {ratios[-1]:>8} {seconds:>9.2f}")
        return "\n".join(lines + remark(ratios))


def _hook(compression, bucket):  # type: ignore[no-untyped-def]  # DDP wants types themselves here, or none
    return compression._reduce(bucket)
