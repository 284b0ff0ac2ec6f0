# SPDX-License-Identifier: Apache-2.0
"""Communication of FSDP2 (fully_shard): gradients' reduce-scatter and parameters' all-gather, as frames.

Gradients have no memory by default: with `rotq`, whose error is small and depends on nothing but the bits, a sharded model keeps its
memory to itself. Parameters are sent rounded; the shard that a rank keeps and trains stays exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from .._library import Status, TacitError
from .codec import Codec

FAULT = b"TCTF"  # in place of a frame's magic: this rank cannot send, and the rest is why


class _Done:
    """The work of an exchange that was not asynchronous."""

    def wait(self, timeout: Any = None) -> bool:
        return True


class _Exchange:
    """What both have in common: frames of known size, faults that travel, counts and time."""

    def __init__(self, name: str, spec: str, seed: int) -> None:
        self.name, self.spec, self.seed = name, spec, seed
        self.step = self.dense_bytes = self.sent_bytes = 0
        self.seconds = 0.0
        self._codecs: dict[str, Codec] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def _codec(self, part: str, tensor: torch.Tensor, group: dist.ProcessGroup) -> Codec:
        name = f"{self.name}/{part}/{tensor.numel()}/{str(tensor.dtype).removeprefix('torch.')}"
        if name not in self._codecs:
            codec = Codec(
                name, (tensor.numel(),), self.spec, dtype=tensor.dtype, rank=group.rank(), ranks=group.size(), seed=self.seed
            )
            if name in self._loaded:
                codec.load(self._loaded.pop(name))
            self._codecs[name] = codec
        return self._codecs[name]

    def state_dict(self) -> dict[str, Any]:
        codecs = {name: codec.save() for name, codec in self._codecs.items()}
        return {"spec": self.spec, "step": self.step, "codecs": {**self._loaded, **codecs}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["spec"] != self.spec:
            raise ValueError(f"{self.name}: the state is of '{state['spec']}', this is '{self.spec}'")
        self.step, self._codecs, self._loaded = state["step"], {}, dict(state["codecs"])

    def _encode(self, codecs: Sequence[Codec], tensors: Sequence[torch.Tensor], messages: torch.Tensor) -> None:
        """Writes a length and a frame into each message; or into all of them the fault that prevents one."""
        try:
            for codec, tensor, message in zip(codecs, tensors, messages):
                message[:8].view(torch.int64)[0] = codec.encode(self.step, tensor, out=message[8:]).numel()
        except TacitError as error:
            text = FAULT + str(error).encode()[: messages.shape[1] - 8 - len(FAULT)]
            for message in messages:
                message[:8].view(torch.int64)[0] = len(text)
                message[8 : 8 + len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    @staticmethod
    def _frame(message: torch.Tensor) -> torch.Tensor:
        """The frame in a message; raises the fault that is there in its place."""
        frame = message[8 : 8 + min(int(message[:8].view(torch.int64)[0]), message.numel() - 8)]
        if bytes(frame[: len(FAULT)].tolist()) == FAULT:
            raise TacitError(Status.ERR_VALUE, bytes(frame[len(FAULT) :].tolist()).decode(errors="replace"))
        return frame

    @staticmethod
    def _room(codec: Codec) -> int:
        return 8 + max((codec.capacity() + 7) // 8 * 8, 256)


class ReduceScatter(_Exchange):
    """Each rank sends each one its part of the gradients, which adds them up in rank order."""

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> _Done | None:
        rank, ranks, began = group.rank(), group.size(), time.monotonic()
        parts = input_tensor.reshape(ranks, -1)
        codecs = [self._codec(str(to), parts[to], group) for to in range(ranks)]
        room = self._room(codecs[rank])
        sent, received = torch.zeros(ranks, room, dtype=torch.uint8), torch.empty(ranks, room, dtype=torch.uint8)
        self._encode(codecs, list(parts), sent)
        dist.all_to_all_single(received, sent, group=group)
        total = torch.zeros(output_tensor.numel())
        for frame in [self._frame(message) for message in received]:
            codecs[rank].decode_add(self.step, frame, total)
        if op == dist.ReduceOp.AVG:
            total /= ranks
        output_tensor.copy_(total.view_as(output_tensor))
        self.step += 1
        self.seconds += time.monotonic() - began
        self.sent_bytes += (ranks - 1) * room
        self.dense_bytes += (ranks - 1) * parts[0].numel() * parts.element_size()
        return _Done() if async_op else None


class AllGather(_Exchange):
    """Each rank sends its shard of the parameters, rounded, to all; its own is rounded too, so that all compute alike."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> _Done | None:
        ranks, shard, began = group.size(), input_tensor.contiguous(), time.monotonic()
        codec = self._codec("shard", shard, group)
        room = self._room(codec)
        sent, received = torch.zeros(room, dtype=torch.uint8), torch.empty(ranks, room, dtype=torch.uint8)
        self._encode([codec], [shard], sent.unsqueeze(0))
        dist.all_gather_into_tensor(received.view(-1), sent, group=group)
        for frame, out in zip([self._frame(message) for message in received], output_tensor.view(ranks, -1)):
            codec.decode(self.step, frame, out)
        self.step += 1
        self.seconds += time.monotonic() - began
        self.sent_bytes += (ranks - 1) * room
        self.dense_bytes += (ranks - 1) * shard.numel() * shard.element_size()
        return _Done() if async_op else None


class FSDPCompression:
    """What compress() has put on a fully sharded model, and what it has saved."""

    def __init__(self, model: torch.nn.Module, gradients: str, parameters: str | None, seed: int) -> None:
        from torch.distributed.fsdp import FSDPModule

        if not isinstance(model, FSDPModule):
            raise TypeError(f"a model of DistributedDataParallel or fully_shard() is needed, not a {type(model).__name__}")
        self.exchanges: list[_Exchange] = []
        for name, module in model.named_modules():
            if isinstance(module, FSDPModule):
                scatter: Any = ReduceScatter(f"{name or 'root'}/gradients", gradients, seed)
                module.set_custom_reduce_scatter(scatter)
                self.exchanges.append(scatter)
                if parameters is not None:
                    gather: Any = AllGather(f"{name or 'root'}/parameters", parameters, seed)
                    module.set_custom_all_gather(gather)
                    self.exchanges.append(gather)

    def state_dict(self) -> dict[str, Any]:
        """This rank's memory and counts of steps: every rank keeps its own. Between steps."""
        return {exchange.name: exchange.state_dict() for exchange in self.exchanges}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a rank's own state_dict() back, of the same model, specs and ranks."""
        if set(state) != {exchange.name for exchange in self.exchanges}:
            raise ValueError("the state is of other modules, or has no parameters' exchanges, where this one has")
        for exchange in self.exchanges:
            exchange.load_state_dict(state[exchange.name])

    def summary(self) -> str:
        """A table of what each module's exchanges would have sent dense, what they have sent, and the time they took."""
        lines = [f"{'exchange':<48} {'calls':>8} {'dense MB':>12} {'sent MB':>12} {'ratio':>8} {'seconds':>9}"]
        for exchange in self.exchanges:
            ratio = exchange.dense_bytes / exchange.sent_bytes if exchange.sent_bytes else float("nan")
            lines.append(
                f"{exchange.name:<48} {exchange.step:>8} {exchange.dense_bytes / 1e6:>12.2f} {exchange.sent_bytes / 1e6:>12.2f}"
                f" {ratio:>8.1f} {exchange.seconds:>9.2f}"
            )
        return "\n".join(lines)
