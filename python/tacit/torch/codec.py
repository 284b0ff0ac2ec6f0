# SPDX-License-Identifier: Apache-2.0
"""Codecs and bundles on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from ctypes import byref, c_int, c_size_t, c_void_p
from typing import Literal

import torch

from .._library import Config, SlotConfig, check, library

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
OPS = {"sum": 0, "average": 1}
NONFINITE = {"error": 0, "skip": 1, "pass": 2}
Op = Literal["sum", "average"]
Nonfinite = Literal["error", "skip", "pass"]
Kind = Literal["allreduce", "reduce_scatter", "allgather"]


def _address(tensor: torch.Tensor, device: torch.device = torch.device("cpu")) -> int:
    if tensor.device != device or not tensor.is_contiguous():
        raise ValueError(
            f"a contiguous tensor on {device} is needed, not one of shape {tuple(tensor.shape)} on {tensor.device}"
        )
    return tensor.data_ptr()


def _device(device: torch.device | str) -> torch.device:
    found = torch.device(device)
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"tensors on cpu or cuda are compressed, not on {found}")
    return torch.device("cuda", torch.cuda.current_device()) if found.type == "cuda" and found.index is None else found


def _on(device: torch.device) -> AbstractContextManager[object]:
    """CUDA's calls in it go to that GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Codec:
    """Compression of one tensor, with memory: tacit_codec_t.

    `name` keys random numbers, so it is the same on all ranks; `spec` is as in doc/concepts.md ("onebit+ef"). What a step
    is made of is told in tacit.h. Frames are tensors of uint8. Not thread-safe. On a GPU, only bundles take its tensor.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        spec: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        nonfinite: Nonfinite = "error",
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self._handle = c_void_p()
        if dtype not in DTYPES:
            raise TypeError(f"codec '{name}': {dtype} is none of {', '.join(map(str, DTYPES))}")
        self.name, self.shape, self.spec, self.dtype = name, tuple(shape), spec, dtype
        self.device = _device(device)
        self.rank, self.ranks = rank, ranks
        self.count = 1
        for size in self.shape:
            self.count *= size
        on_gpu = int(self.device.type == "cuda")
        slot = SlotConfig(ctypes.sizeof(SlotConfig), self.count, DTYPES[dtype], on_gpu, 0, (c_size_t * 8)(), spec.encode())
        if len(self.shape) <= 8 and self.count != 0:
            slot.ndim = len(self.shape)
            slot.shape = (c_size_t * 8)(*self.shape)
        config = Config(ctypes.sizeof(Config), None, 0, 0, seed, NONFINITE[nonfinite], strict, 0)
        with _on(self.device):
            check(library.tacit_codec_create(name.encode(), byref(slot), byref(config), rank, ranks, byref(self._handle)))

    def __del__(self) -> None:
        if self._handle:
            library.tacit_codec_destroy(self._handle)

    @property
    def grain(self) -> int:
        """Ranges begin at multiples of it; 0: only the whole tensor is encoded."""
        return int(library.tacit_codec_grain(self._handle))

    def capacity(self, count: int | None = None) -> int:
        """Bytes of the largest frame of so many elements."""
        return int(library.tacit_codec_capacity(self._handle, self.count if count is None else count))

    def reset(self) -> None:
        """Forgets the memory."""
        library.tacit_codec_reset(self._handle)

    def save(self) -> torch.Tensor:
        """What it remembers, between steps: for a checkpoint."""
        size = c_size_t()
        check(library.tacit_codec_save(self._handle, None, 0, byref(size)))
        state = torch.empty(size.value, dtype=torch.uint8)
        check(library.tacit_codec_save(self._handle, state.data_ptr(), state.numel(), byref(size)))
        return state

    def load(self, state: torch.Tensor) -> None:
        """Takes back what save() gave. On an error nothing has changed."""
        check(library.tacit_codec_load(self._handle, _address(state), state.numel()))

    def encode(
        self, step: int, tensor: torch.Tensor, first: int = 0, count: int | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The frame of elements [first, first + count), in `out` if that is given."""
        self._expect(tensor, self.dtype, self.count)
        count = self.count - first if count is None else count
        frame = torch.empty(self.capacity(count), dtype=torch.uint8) if out is None else out
        size = c_size_t()
        check(
            library.tacit_encode(
                self._handle, step, _address(tensor), first, count, _address(frame), frame.numel(), byref(size)
            )
        )
        return frame[: size.value]

    def own(self, first: int, count: int, op: Op = "average") -> None:
        """Says which range this rank reduces and encodes again."""
        check(library.tacit_codec_own(self._handle, first, count, OPS[op]))

    def reencode(self, step: int, total: torch.Tensor, first: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """The frame of a reduced range, float32, whose first element is `first`."""
        self._expect(total, torch.float32, total.numel())
        frame = torch.empty(self.capacity(total.numel()), dtype=torch.uint8) if out is None else out
        size = c_size_t()
        check(
            library.tacit_reencode(
                self._handle, step, _address(total), first, total.numel(), _address(frame), frame.numel(), byref(size)
            )
        )
        return frame[: size.value]

    def decode(self, step: int, frame: torch.Tensor, out: torch.Tensor) -> None:
        """Writes what the frame says over its range of the tensor."""
        self._expect(out, self.dtype, self.count)
        check(library.tacit_decode(self._handle, step, _address(frame), frame.numel(), _address(out), None, None))

    def decode_add(self, step: int, frame: torch.Tensor, total: torch.Tensor) -> None:
        """Adds what the frame says to sums in float32 of the whole tensor."""
        self._expect(total, torch.float32, self.count)
        check(library.tacit_decode_add(self._handle, step, _address(frame), frame.numel(), _address(total), None, None))

    def _expect(self, tensor: torch.Tensor, dtype: torch.dtype, count: int) -> None:
        if tensor.dtype != dtype or tensor.numel() != count:
            raise ValueError(
                f"codec '{self.name}': a tensor of {count} elements of {dtype} is needed, not {tensor.numel()} of {tensor.dtype}"
            )


class Bundle:
    """A step of many tensors in two exchanges: tacit_bundle_t (tacit_bundle.h tells how).

    Between encode() and reduce() the `messages` go all to all, `sends[q]` bytes to rank q and `receives[q]` bytes from it; between
    reduce() and finish() `gathers` bytes go from each rank to all. Tensors given to encode() must not change until the step ends.

    Where tensors are sharded, tensor i belongs to rank owners[i], a step has one exchange, and no reduce(). "reduce_scatter": the
    messages go all to all, those that come are given to finish(), and tensors of other ranks may be None there; "allgather": encode()
    writes one message, of `gathers` bytes, to all, and is not given tensors of other ranks.

    On a GPU all tensors are on it, the calls only launch kernels on its current stream, and what a step finds is raised by poll().
    """

    def __init__(
        self, codecs: Sequence[Codec], op: Op = "average", kind: Kind = "allreduce", owners: Sequence[int] | None = None
    ) -> None:
        self._handle = c_void_p()
        self.codecs, self.kind = list(codecs), kind
        count, handle = len(self.codecs), byref(self._handle)
        handles = (c_void_p * count)(*[codec._handle for codec in self.codecs])
        self.device = self.codecs[0].device
        if kind != "allreduce" and (owners is None or len(owners) != count):
            raise ValueError(f"{kind}: {count} owners are needed, one for each tensor, not {owners}")
        shards = None if owners is None else (c_int * count)(*owners)
        with _on(self.device):
            if kind == "reduce_scatter":
                check(library.tacit_bundle_create_reduce_scatter(handles, shards, count, OPS[op], handle))
            elif kind == "allgather":
                check(library.tacit_bundle_create_allgather(handles, shards, count, handle))
            else:
                check(library.tacit_bundle_create(handles, count, OPS[op], handle))
        rank, ranks = self.codecs[0].rank, self.codecs[0].ranks
        self.sends = [int(library.tacit_bundle_scatter_bytes(self._handle, rank, q)) for q in range(ranks)]
        self.receives = [int(library.tacit_bundle_scatter_bytes(self._handle, q, rank)) for q in range(ranks)]
        self.gathers = int(library.tacit_bundle_gather_bytes(self._handle))
        self._kept: list[torch.Tensor | None] = []

    def __del__(self) -> None:
        if self._handle:
            library.tacit_bundle_destroy(self._handle)

    def encode(self, step: int, tensors: Sequence[torch.Tensor | None], messages: torch.Tensor) -> None:
        """Begins a step: writes the messages to all ranks, sum(sends) bytes."""
        self._room(messages, self.gathers if self.kind == "allgather" else sum(self.sends))
        addresses = self._addresses(tensors)
        with self._stream():
            check(library.tacit_bundle_encode(self._handle, step, addresses, _address(messages, self.device)))
        self._kept = [*tensors, messages]

    def reduce(self, messages: torch.Tensor, message: torch.Tensor) -> None:
        """Takes the messages from all ranks, sum(receives) bytes, and writes the one to all, `gathers` bytes."""
        self._room(messages, sum(self.receives))
        self._room(message, self.gathers)
        with self._stream():
            check(library.tacit_bundle_reduce(self._handle, _address(messages, self.device), _address(message, self.device)))

    def finish(self, messages: torch.Tensor, tensors: Sequence[torch.Tensor | None]) -> None:
        """Takes all ranks' messages, in ascending order, and writes the results. Raises what any rank found, unless on a GPU."""
        self._room(messages, sum(self.receives) if self.kind == "reduce_scatter" else self.gathers * self.codecs[0].ranks)
        addresses = self._addresses(tensors)
        with self._stream():
            check(library.tacit_bundle_finish(self._handle, _address(messages, self.device), addresses))
        self._kept = []

    def poll(self, behind: int = 0) -> None:
        """On a GPU: waits for all steps but the last `behind`, and raises what any rank found in them."""
        check(library.tacit_bundle_poll(self._handle, behind))

    def cancel(self) -> None:
        """Ends the step without a result, with memory as before it."""
        library.tacit_bundle_cancel(self._handle)
        self._kept = []

    def _stream(self) -> AbstractContextManager[object]:
        if self.device.type == "cuda":
            check(library.tacit_bundle_set_stream(self._handle, torch.cuda.current_stream(self.device).cuda_stream))
        return _on(self.device)

    def _addresses(self, tensors: Sequence[torch.Tensor | None]) -> ctypes.Array[c_void_p]:
        if len(tensors) != len(self.codecs):
            raise ValueError(f"a bundle of {len(self.codecs)} tensors was given {len(tensors)}")
        for codec, tensor in zip(self.codecs, tensors):
            if tensor is not None:
                codec._expect(tensor, codec.dtype, codec.count)
        return (c_void_p * len(tensors))(*[t if t is None else _address(t, self.device) for t in tensors])

    @staticmethod
    def _room(messages: torch.Tensor, size: int) -> None:
        if messages.dtype != torch.uint8 or messages.numel() < size:
            raise ValueError(f"{size} bytes are needed, not {messages.numel()} of {messages.dtype}")
