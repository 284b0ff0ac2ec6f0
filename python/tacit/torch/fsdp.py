# SPDX-License-Identifier: Apache-2.0
"""Communication of FSDP2 (fully_shard): gradients' reduce-scatter and parameters' all-gather, as sharded bundles.

Gradients have no memory by default: with `rotq`, whose error is small and depends on nothing but the bits, a sharded model keeps its
memory to itself. Parameters are sent rounded; the shard that a rank keeps and trains stays exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist

from .._library import TacitError
from . import settings
from .codec import Bundle, Codec, Kind, Nonfinite, Op
from .exchange import Faults, ratio_text, remark


class _Done:
    """The work of an exchange that was not asynchronous, or is ordered by the stream it is on."""

    def wait(self, timeout: Any = None) -> bool:
        return True


class _Messages:
    """Memory for messages, as much as the largest exchange takes: they follow each other on one stream. It stays, so that no thread
    of the backend is ever the last one to hold it, which at the end of the program may be too late for Python."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._parts: dict[tuple[str, torch.device, int], torch.Tensor] = {}

    def take(self, name: str, size: int, device: torch.device) -> torch.Tensor:
        if (name, device, size) not in self._parts:
            memory = self._memory.get((name, device))
            if memory is None or memory.numel() < size:
                memory = self._memory[name, device] = torch.empty(size, dtype=torch.uint8, device=device)
                self._parts = {key: part for key, part in self._parts.items() if key[:2] != (name, device)}
            self._parts[name, device, size] = memory[:size]
        return self._parts[name, device, size]


class _Exchange:
    """What both have in common: a bundle for each size, dtype and operator, with a tensor for each rank; counts and time."""

    kind: Kind

    def __init__(
        self,
        name: str,
        spec: str,
        faults: Faults,
        messages: _Messages,
        *,
        seed: int,
        nonfinite: Nonfinite,
        warmup_steps: int = 0,
    ) -> None:
        self.name, self.spec, self.warmup_steps = name, spec, warmup_steps
        self._seed, self._nonfinite = seed, nonfinite
        self.step = self.dense_bytes = self.sent_bytes = 0
        self.seconds = 0.0
        self._faults, self._messages = faults, messages
        self._bundles: dict[str, Bundle] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def _bundle(self, shard: torch.Tensor, group: dist.ProcessGroup, op: Op) -> Bundle:
        key = f"{self.name}/{shard.numel()}/{str(shard.dtype).removeprefix('torch.')}/{op}"
        if key not in self._bundles:
            codecs, saved = [], set(self._loaded)
            for owner in range(group.size()):
                name = f"{key}/{owner}"
                codecs.append(
                    Codec(
                        name,
                        (shard.numel(),),
                        self.spec,
                        dtype=shard.dtype,
                        device=shard.device,
                        rank=group.rank(),
                        ranks=group.size(),
                        nonfinite=self._nonfinite,
                        seed=self._seed,
                    )
                )
                if name in self._loaded:
                    codecs[-1].load(self._loaded.pop(name))
            if saved and not saved & {codec.name for codec in codecs}:
                raise ValueError(f"{self.name}: the state has {min(saved)}, the model needs {codecs[0].name}: it is of another model")
            self._bundles[key] = Bundle(codecs, op, self.kind, range(group.size()))
        return self._bundles[key]

    def _finish(self, bundle: Bundle, received: torch.Tensor, out: list[torch.Tensor | None]) -> None:
        """After a fault results are NaN, and backward() raises at its end; a forward pass at once."""
        within_backward = torch._C._current_graph_task_id() != -1
        if within_backward:
            self._faults.watch()
        try:
            if bundle.device.type == "cuda":  # what stays after a fault, of which nobody waits to hear
                self._spoil(bundle, out)
            bundle.finish(received, out)
            bundle.poll(behind=1)
            self._faults.poll(bundle)
        except TacitError as error:
            self._spoil(bundle, out)
            if not within_backward:
                raise
            self._faults.note(error)

    def _spoil(self, bundle: Bundle, out: list[torch.Tensor | None]) -> None:
        for rank, tensor in enumerate(out):
            if tensor is not None and not (self.kind == "allgather" and rank == bundle.codecs[0].rank):  # which may be its input
                tensor.fill_(torch.nan)

    def _count(self, began: float, sent_bytes: int, dense_bytes: int) -> _Done:
        self.step += 1
        self.seconds += time.monotonic() - began
        self.sent_bytes += sent_bytes
        self.dense_bytes += dense_bytes
        return _Done()

    def state_dict(self) -> dict[str, Any]:
        codecs = {codec.name: codec.save() for bundle in self._bundles.values() for codec in bundle.codecs}
        return {"spec": self.spec, "step": self.step, "codecs": {**self._loaded, **codecs}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        settings.expect(state, {"spec": self.spec})
        self.step, self._bundles, self._loaded = state["step"], {}, dict(state["codecs"])


class ReduceScatter(_Exchange):
    """Each rank sends each one its part of the gradients, which adds them up in rank order, its own exactly."""

    kind: Literal["reduce_scatter"] = "reduce_scatter"

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> _Done:
        began, ranks = time.monotonic(), group.size()
        dense_bytes = (ranks - 1) * output_tensor.numel() * output_tensor.element_size()
        if op not in (dist.ReduceOp.AVG, dist.ReduceOp.SUM):
            raise ValueError(f"{self.name}: gradients are summed or averaged, not reduced by {op}")
        if self.step < self.warmup_steps:
            dist.reduce_scatter_tensor(output_tensor, input_tensor, op, group)
            return self._count(began, dense_bytes, dense_bytes)
        bundle = self._bundle(output_tensor, group, "average" if op == dist.ReduceOp.AVG else "sum")
        sent = self._messages.take("sent", sum(bundle.sends), bundle.device)
        received = self._messages.take("received", sum(bundle.receives), bundle.device)
        bundle.encode(self.step, list(input_tensor.view(ranks, -1)), sent)
        dist.all_to_all_single(received, sent, bundle.receives, bundle.sends, group=group)
        own = [output_tensor if rank == group.rank() else None for rank in range(ranks)]
        self._finish(bundle, received, own)
        return self._count(began, sent.numel(), dense_bytes)


class AllGather(_Exchange):
    """Each rank sends its shard of the parameters, rounded, to all; its own is rounded too, so that all compute alike."""

    kind: Literal["allgather"] = "allgather"

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> _Done:
        began, ranks = time.monotonic(), group.size()
        bundle = self._bundle(input_tensor, group, "sum")
        sent = self._messages.take("sent", bundle.gathers, bundle.device)
        received = self._messages.take("received", ranks * bundle.gathers, bundle.device)
        bundle.encode(self.step, [input_tensor if rank == group.rank() else None for rank in range(ranks)], sent)
        dist.all_gather_into_tensor(received, sent, group=group)
        self._finish(bundle, received, list(output_tensor.view(ranks, -1)))
        dense_bytes = (ranks - 1) * input_tensor.numel() * input_tensor.element_size()
        return self._count(began, (ranks - 1) * bundle.gathers, dense_bytes)


class FSDPCompression:
    """What compress() has put on a fully sharded model, and what it has saved."""

    def __init__(
        self,
        model: torch.nn.Module,
        gradients: str,
        parameters: str | None,
        *,
        seed: int,
        warmup_steps: int = 0,
        nonfinite: Nonfinite = "error",
    ) -> None:
        from torch.distributed.fsdp import FSDPModule

        if not isinstance(model, FSDPModule):
            raise TypeError(f"a model of DistributedDataParallel or fully_shard() is needed, not a {type(model).__name__}")
        self.exchanges: list[_Exchange] = []
        self._identity = {"rank": dist.get_rank(), "ranks": dist.get_world_size(), "seed": seed}
        settings.agree(
            None,
            next(model.parameters()).device,
            {"spec": gradients, "parameters": parameters, "warmup_steps": warmup_steps, "nonfinite": nonfinite, "seed": seed},
        )
        faults, scattered, gathered = Faults(), _Messages(), _Messages()
        for name, module in model.named_modules():
            if isinstance(module, FSDPModule):
                scatter: Any = ReduceScatter(
                    f"{name or 'root'}/gradients", gradients, faults, scattered, seed=seed, nonfinite=nonfinite, warmup_steps=warmup_steps
                )
                module.set_custom_reduce_scatter(scatter)
                self.exchanges.append(scatter)
                if parameters is not None:
                    gather: Any = AllGather(
                        f"{name or 'root'}/parameters", parameters, faults, gathered, seed=seed, nonfinite=nonfinite
                    )
                    module.set_custom_all_gather(gather)
                    self.exchanges.append(gather)

    def state_dict(self) -> dict[str, Any]:
        """This rank's memory and counts of steps: every rank keeps its own. Between steps."""
        return {**self._identity, "exchanges": {exchange.name: exchange.state_dict() for exchange in self.exchanges}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a rank's own state_dict() back, of the same model, specs and ranks."""
        settings.expect(state, self._identity)
        if other := set(state["exchanges"]) ^ {exchange.name for exchange in self.exchanges}:
            raise ValueError(f"the state is of other modules, or of other exchanges of theirs: {', '.join(sorted(other))}")
        for exchange in self.exchanges:
            exchange.load_state_dict(state["exchanges"][exchange.name])

    def summary(self) -> str:
        """A table of what each module's exchanges would have sent dense, what they have sent, and the time they took."""
        ratios = []
        lines = [f"{'exchange':<48} {'calls':>8} {'dense MB':>12} {'sent MB':>12} {'ratio':>8} {'seconds':>9}"]
        for exchange in self.exchanges:
            if exchange.step == 0:
                continue  # of a module without parameters of its own, or not yet used
            ratios.append(ratio_text(exchange.dense_bytes, exchange.sent_bytes))
            lines.append(
                f"{exchange.name:<48} {exchange.step:>8} {exchange.dense_bytes / 1e6:>12.2f} {exchange.sent_bytes / 1e6:>12.2f}"
                f" {ratios[-1]:>8} {exchange.seconds:>9.2f}"
            )
        return "\n".join(lines + remark(ratios))
