# SPDX-License-Identifier: Apache-2.0
"""Tokens on their way to experts on other ranks, and back: tacit_moe.h, over a process group.

Each of a pass's four exchanges is a call of the library that begins, two all-to-alls, of lengths and of messages, and a call that
ends. A rank that cannot begin says so in place of lengths, so that no rank waits for it, and all raise what it has found. What it finds
in a message that has come to it, it says in the next exchange, and goes on as if it had got nothing; after the last one of the forward
pass, or of the backward pass, there is an all-to-all for that.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import byref, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from .._library import Config, MoeBatch, MoeConfig, MoeCounters, Status, TacitError, check, library
from . import settings
from .codec import DTYPES, NONFINITE, Nonfinite
from .exchange import Faults


@dataclass(frozen=True)
class Counters:
    """Since the exchange was made, on this rank: tacit_moe_counters_t."""

    passes: int  # dispatched
    tokens: int  # given
    copies: int  # that left for other ranks, a token to several experts of a rank as one, …
    rows: int  # … and rows that they travelled as
    overflows: int  # choices that an expert's capacity did not allow
    wire_bytes: int  # that left this rank in all four exchanges
    dense_bytes: int  # what float32 rows would have been, of this rank's tokens; compare sums over ranks
    residual: float  # with lsh: norm of what these copies had beyond their rows, relative to theirs
    hashes: float  # with lsh: of the last pass

    @property
    def rate(self) -> float:
        """Rows for each copy; 1 where nothing has left."""
        return self.rows / self.copies if self.copies else 1.0


@dataclass(frozen=True)
class Batch:
    """What the experts of this rank get."""

    rows: torch.Tensor  # those of its first expert, then those of the next
    counts: list[int]  # rows of each expert: rows.split(counts)
    _transit: _Transit
    _link: torch.Tensor  # from combine's backward pass to dispatch's on ranks where no expert is in between


class TokenExchange:
    """Sends tokens of a mixture of experts to where their experts are, and brings back what these make of them: tacit_moe_t.

        batch = exchange.dispatch(tokens, chosen)
        replies = torch.cat([expert(rows) for expert, rows in zip(experts, batch.rows.split(batch.counts))])
        outputs = exchange.combine(batch, replies, weights)

    outputs[t] is the sum of weights[t, j] times what expert chosen[t, j] makes of token t. Rank r of N has experts `local_experts`: from
    experts * r / N, rounded down, to experts * (r + 1) / N.

    Collective, as all of its calls and their backward passes: all ranks make them, in the same order. name: keys random numbers, and
    is each exchange's own. tokens: the most of one pass on one rank. capacity: the most tokens that a rank sends to one expert; 0: all.
    nonfinite: what NaN and infinity do where rows are encoded or clustered, as for compress(). An error of one rank is raised on all.
    """

    def __init__(
        self,
        name: str,
        dimension: int,
        experts: int,
        tokens: int,
        choices: int = 2,
        capacity: int = 0,
        spec: str = "lsh",
        *,
        dtype: torch.dtype = torch.float32,
        group: dist.ProcessGroup | None = None,
        nonfinite: Nonfinite = "error",
        seed: int = 0,
    ) -> None:
        self._handle, self._lock = c_void_p(), threading.RLock()
        self._passes: set[int | None] = set()  # that live
        self.name, self.dimension, self.experts, self.choices, self.dtype = name, dimension, experts, choices, dtype
        self._group, self._rank, self._ranks = group, dist.get_rank(group), dist.get_world_size(group)
        self._device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
        self._faults = Faults()
        self._kept: list[torch.Tensor] = []  # of the last exchange: no thread of the backend is the last to hold them
        counts = {"dimension": dimension, "experts": experts, "tokens": tokens, "choices": choices, "capacity": capacity}
        others: dict[str, str | int] = {"name": name, "spec": spec, "dtype": str(dtype), "nonfinite": nonfinite, "seed": seed}
        settings.agree(group, self._device, {**others, **counts})
        settings.check(warmup_steps=0, nonfinite=nonfinite, strict=False, seed=seed, spec=spec)
        for what, value in counts.items():
            if type(value) is not int or not 0 <= value < 2**63:
                raise ValueError(f"{what} is a whole number from 0 on, not {value!r}")
        if dtype not in DTYPES:
            raise TypeError(f"tokens are {', '.join(map(str, DTYPES))}, not {dtype}")
        own = MoeConfig(ctypes.sizeof(MoeConfig), *counts.values(), DTYPES[dtype], 0, spec.encode())
        common = Config(ctypes.sizeof(Config), None, 0, 0, seed, NONFINITE[nonfinite], 0, 0)
        check(
            library.tacit_moe_create_codec(
                name.encode(), byref(own), byref(common), self._rank, self._ranks, byref(self._handle)
            )
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._passes.clear()
            library.tacit_moe_destroy(self._handle)

    @property
    def local_experts(self) -> range:
        """The numbers of this rank's experts."""
        return range(self.experts * self._rank // self._ranks, self.experts * (self._rank + 1) // self._ranks)

    @property
    def counters(self) -> Counters:
        found = MoeCounters()
        self._call(library.tacit_moe_counters, self._handle, byref(found))
        return Counters(*(getattr(found, field) for field, *_ in MoeCounters._fields_))

    def dispatch(self, tokens: torch.Tensor, experts: torch.Tensor) -> Batch:
        """Sends tokens, (count, dimension), to experts, whole numbers (count, choices): -1 is nowhere, and no expert comes twice for a
        token. Each rank has a count of its own. Tokens must not change until the backward pass is over, or the outputs are there."""
        transit = _Transit(self)
        # A link that always needs a gradient: backward passes have the same exchanges on all ranks, whatever is trained on which.
        link = torch.zeros(0, device=tokens.device, requires_grad=True)
        link, rows = _Dispatch.apply(link, tokens, experts, transit)
        return Batch(rows, transit.counts, transit, link)

    def combine(self, batch: Batch, replies: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Outputs of the batch's tokens, (count, dimension), of a reply to each of its rows, (rows, dimension), and of weights, (count,
        choices): zero where a token went nowhere."""
        outputs: torch.Tensor = _Combine.apply(batch._link, replies, weights.float(), batch._transit)
        return outputs

    # ---- What a pass does with it ----

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        with self._lock:  # passes may end in any thread
            check(function(*arguments))

    def _exchange(self, transit: _Transit, begin: Callable[[], None], end: Callable[[], None], last: bool) -> bool:
        """Raises what any rank has found until now. False: this rank found something in what has come, which all are told later."""
        failure: TacitError | None = None
        sent = torch.empty(0, dtype=torch.uint8)
        try:
            if transit.failure is not None:
                raise transit.failure
            begin()
            lengths = [library.tacit_moe_message_bytes(transit.handle, rank) for rank in range(self._ranks)]
            sent = torch.empty(sum(lengths), dtype=torch.uint8)
            for rank, message in enumerate(torch.split(sent, lengths)):
                if rank != self._rank:
                    self._call(library.tacit_moe_write, transit.handle, rank, message.data_ptr())
        except Exception as error:
            failure = error if isinstance(error, TacitError) else self._wrong(str(error))
            lengths = [int(failure.status)] * self._ranks
        coming = self._trade(torch.tensor(lengths), [1] * self._ranks, [1] * self._ranks).tolist()
        self._raise(coming, failure)
        received = self._trade(sent, lengths, coming) if self._ranks > 1 else sent
        try:
            for rank, message in enumerate(torch.split(received, coming)):
                if rank != self._rank:
                    self._call(library.tacit_moe_read, transit.handle, rank, message.data_ptr(), message.numel())
            end()
        except TacitError as error:
            transit.failure = error
        if last:
            status = 0 if transit.failure is None else int(transit.failure.status)
            ones = [1] * self._ranks
            self._raise(self._trade(torch.tensor([status] * self._ranks), ones, ones).tolist(), transit.failure)
        return transit.failure is None

    def _trade(self, sent: torch.Tensor, lengths: list[int], coming: list[int]) -> torch.Tensor:
        there = sent.to(self._device)
        received = torch.empty(sum(coming), dtype=sent.dtype, device=self._device)
        dist.all_to_all_single(received, there, coming, lengths, group=self._group)
        self._kept = [there, received]
        return received.cpu()

    def _wrong(self, text: str) -> TacitError:
        return TacitError(Status.ERR_ARGUMENT, f"rank {self._rank}: moe '{self.name}': {text}")

    def _raise(self, coming: list[int], failure: TacitError | None) -> None:
        """What the first rank has found that has a status in place of lengths."""
        failed = [rank for rank, length in enumerate(coming) if length < 0]
        if failed:
            texts = settings.gather("" if failure is None else str(failure), self._group, self._device)
            raise TacitError(Status(coming[failed[0]]), texts[failed[0]]) from failure


class _Transit:
    """A pass: tacit_moe_pass_t, which is freed with the last that has to do with it: the batch's rows, the batch, or the graph."""

    count: int  # tokens
    counts: list[int]  # rows of each expert here
    device: torch.device
    tokens: torch.Tensor  # in the CPU's memory

    def __init__(self, exchange: TokenExchange) -> None:
        self.handle, self.exchange = c_void_p(), exchange
        self.failure: TacitError | None = None  # which the next exchange begins with

    def __del__(self) -> None:
        with self.exchange._lock:
            if self.handle.value in self.exchange._passes:  # or it went with the exchange
                self.exchange._passes.remove(self.handle.value)
                library.tacit_moe_pass_destroy(self.handle)

    # ---- The four exchanges ----

    def dispatch(self, tokens: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        exchange, batch = self.exchange, MoeBatch()

        def begin() -> None:
            try:
                self.count, self.device = len(tokens), tokens.device
                self.tokens = self._given("tokens", tokens, exchange.dtype, exchange.dimension)
                self.version = None if tokens.is_inference() else self.tokens._version
                if experts.dtype == torch.bool or experts.is_floating_point():
                    raise exchange._wrong(f"experts are whole numbers, not {experts.dtype}")
                numbers = self._given("experts", experts.long().clamp(-2, 2**31 - 1).int(), torch.int32, exchange.choices)
            except Exception:
                self._begin(None, 0, None)  # other ranks count this pass, too
                raise
            self._begin(self.tokens.data_ptr(), self.count, numbers.data_ptr())

        def end() -> None:
            exchange._call(library.tacit_moe_dispatch_end, self.handle, byref(batch))

        if not exchange._exchange(self, begin, end, last=False):
            self.counts = [0] * len(exchange.local_experts)
            return self._rows(0).to(self.device)
        self.counts = [batch.first[i + 1] - batch.first[i] for i in range(batch.experts)]
        return self._view(batch.rows).to(self.device)

    def _begin(self, tokens: int | None, count: int, experts: int | None) -> None:
        exchange = self.exchange
        exchange._call(library.tacit_moe_dispatch_begin, exchange._handle, tokens, count, experts, byref(self.handle))
        exchange._passes.add(self.handle.value)

    def combine(self, replies: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        outputs, factors = self._rows(self.count), torch.empty(0)

        def begin() -> None:
            nonlocal factors
            given = self._given("replies", replies, self.exchange.dtype, self.exchange.dimension, sum(self.counts))
            factors = self._given("weights", weights, torch.float32, self.exchange.choices)
            self._unchanged()
            self.exchange._call(library.tacit_moe_combine_begin, self.handle, given.data_ptr())

        def end() -> None:
            self.exchange._call(library.tacit_moe_combine_end, self.handle, factors.data_ptr(), outputs.data_ptr())

        self.exchange._exchange(self, begin, end, last=True)
        return outputs.to(self.device)

    def combine_backward(self, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, replies = torch.empty(self.count, self.exchange.choices), self._rows(sum(self.counts))

        def begin() -> None:
            given = self._given("gradients", gradients, self.exchange.dtype, self.exchange.dimension)
            self._unchanged()
            self.exchange._call(
                library.tacit_moe_combine_backward_begin, self.handle, given.data_ptr(), weights.data_ptr()
            )

        def end() -> None:
            self.exchange._call(library.tacit_moe_combine_backward_end, self.handle, replies.data_ptr())

        self._backward(begin, end, False, replies, weights)
        return replies.to(self.device), weights.to(self.device)

    def dispatch_backward(self, row_gradients: torch.Tensor) -> torch.Tensor:
        tokens = self._rows(self.count)

        def begin() -> None:
            given = self._given("gradients", row_gradients, self.exchange.dtype, self.exchange.dimension, sum(self.counts))
            self.exchange._call(library.tacit_moe_dispatch_backward_begin, self.handle, given.data_ptr())

        def end() -> None:
            self.exchange._call(library.tacit_moe_dispatch_backward_end, self.handle, tokens.data_ptr())

        self._backward(begin, end, True, tokens)
        return tokens.to(self.device)

    def _backward(self, begin: Callable[[], None], end: Callable[[], None], last: bool, *results: torch.Tensor) -> None:
        """After a fault the results are NaN, the other exchange fails on all ranks too, and backward() raises at its end."""
        self.exchange._faults.watch()
        try:
            self.exchange._exchange(self, begin, end, last)
        except TacitError as error:
            self.failure = error
        if self.failure is not None:
            self.exchange._faults.note(self.failure)
            for tensor in results:
                tensor.fill_(torch.nan)

    # ---- Tensors ----

    def _given(self, what: str, tensor: torch.Tensor, dtype: torch.dtype, columns: int, rows: int | None = None) -> torch.Tensor:
        """In the CPU's memory, without a graph."""
        shape = (self.count if rows is None else rows, columns)
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise self.exchange._wrong(f"{what} are {tensor.dtype} of shape {tuple(tensor.shape)}, where {dtype} of {shape} is needed")
        return tensor.detach().cpu().contiguous()

    def _rows(self, count: int) -> torch.Tensor:
        return torch.empty(count, self.exchange.dimension, dtype=self.exchange.dtype)

    def _view(self, address: int) -> torch.Tensor:
        """The library's memory as the batch's rows, which keep the pass."""
        rows = self._rows(0)
        if any(self.counts):
            memory = (ctypes.c_uint8 * (sum(self.counts) * rows.element_size() * self.exchange.dimension)).from_address(address)
            memory.__dict__["pass"] = self
            rows = torch.frombuffer(memory, dtype=rows.dtype).view(-1, self.exchange.dimension)
        return rows.data  # of which autograd does not know that it is a view

    def _unchanged(self) -> None:
        if self.version is not None and self.tokens._version != self.version:
            raise self.exchange._wrong("tokens have been changed in place since they were dispatched")


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, link: torch.Tensor, tokens: torch.Tensor, experts: torch.Tensor, transit: _Transit
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.transit = transit
        return link.clone(), transit.dispatch(tokens, experts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, link: torch.Tensor, row_gradients: torch.Tensor) -> tuple[None, torch.Tensor, None, None]:
        return None, _take(ctx).dispatch_backward(row_gradients), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, link: torch.Tensor, replies: torch.Tensor, weights: torch.Tensor, transit: _Transit) -> torch.Tensor:
        ctx.transit, ctx.link_device = transit, link.device
        return transit.combine(replies, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        link = torch.zeros(0, device=ctx.link_device)
        return link, *_take(ctx).combine_backward(gradients), None


def _take(ctx: Any) -> _Transit:
    """A graph's pass, which the graph needs no more."""
    transit: _Transit | None = ctx.transit
    if transit is None:
        raise TacitError(Status.ERR_STATE, "a mixture's tokens go backward once: a pass had its backward pass before")
    ctx.transit = None
    return transit
