# SPDX-License-Identifier: Apache-2.0
"""The two exchanges of bundles (tacit_bundle.h), over a process group.

Messages go all to all, and what each rank has reduced is gathered. Two threads do that beside the program, one for each exchange, each
with a process group of its own, so that the order of exchanges is that of jobs on all ranks. On a GPU each has a stream of its own, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from .._library import TacitError
from .codec import Bundle, Codec


class Bucket:
    """A bundle, memory for its messages, and the time it took."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self.bundle = Bundle(codecs)
        sizes = sum(self.bundle.sends), sum(self.bundle.receives), self.bundle.gathers, self.bundle.gathers * codecs[0].ranks
        self.sent, self.received, self.own, self.gathered = (
            torch.empty(size, dtype=torch.uint8, device=self.bundle.device) for size in sizes
        )
        self.seconds, self.steps = 0.0, 0


def ratio_text(dense: float, sent: float) -> str:
    """As a summary has it."""
    return f"{dense / sent:.1f}" if sent else "-"


def remark(ratios: Iterable[str]) -> list[str]:
    """What a summary says at its end."""
    below = any(ratio != "-" and float(ratio) < 1 for ratio in ratios)
    return ["A ratio below 1.0: more was sent than dense tensors take; choose a spec that sends less."] if below else []


class Faults:
    """What is found while backward() is under way is raised when it has ended, so that nothing of DDP or FSDP is left half done and the
    training can go on. The first of several, which is the same on all ranks."""

    def __init__(self) -> None:
        self._found: dict[int, Exception] = {}
        self._polls: dict[int, Bundle] = {}
        self._task = -1  # of autograd: the backward() that is watched

    def watch(self) -> None:
        """Within backward(): has it raise what note() will be told. Behind callbacks that are queued later in it."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._found = task, {}  # what one has found that was broken off is nobody's
            torch.autograd.Variable._execution_engine.queue_callback(
                lambda: torch.autograd.Variable._execution_engine.queue_callback(self._end)
            )

    def poll(self, bundle: Bundle) -> None:
        """On a GPU: asks a bundle at the end."""
        self._polls[id(bundle)] = bundle

    def note(self, error: Exception, number: int = 0) -> None:
        self._found.setdefault(number, error)

    def _end(self) -> None:
        polls, self._polls = list(self._polls.values()), {}
        for bundle in polls:
            try:
                bundle.poll()
            except TacitError as error:
                self.note(error, len(self._found))
        found, self._found = self._found, {}
        if found:
            raise found[min(found)]


@dataclass
class _Job:
    bucket: Bucket
    step: int
    tensors: list[torch.Tensor]
    result: torch.Tensor
    number: int
    faults: Faults | None
    future: torch.futures.Future[torch.Tensor] = field(init=False)
    ready: torch.cuda.Event | None = None  # what the stream that goes on with it waits for

    def __post_init__(self) -> None:
        device = self.bucket.bundle.device
        self.future = torch.futures.Future(devices=[device] if device.type == "cuda" else [])
        self.hand_over()

    def hand_over(self) -> None:
        """What is on the current stream by now comes before what the next one does with this."""
        if self.bucket.bundle.device.type == "cuda":
            self.ready = torch.cuda.current_stream(self.bucket.bundle.device).record_event()

    def fail(self, error: Exception) -> None:
        self.bucket.bundle.cancel()
        if self.faults is None:
            self.future.set_exception(error)  # type: ignore[arg-type]  # its annotation is of results
        else:
            self.faults.note(error, self.number)
            self.future.set_result(self.result)


class Exchanges:
    """The two threads. They know nothing of a model, and end with it. What they find is the future's exception, or noted in `faults`."""

    def __init__(self, group: dist.ProcessGroup | None, faults: Faults | None = None) -> None:
        self._faults, self._started = faults, 0
        ranks, backend = dist.get_process_group_ranks(group), dist.get_backend(group)
        self._groups: list[Any] = [
            dist.new_group(ranks, backend=backend, use_local_synchronization=True, group_desc=f"tacit {name}")
            for name in ("scatter", "gather")
        ]
        self._threads = [ThreadPoolExecutor(1, f"tacit {name}") for name in ("scatter", "gather")]
        self._streams: dict[tuple[torch.device, int], torch.cuda.Stream] = {}

    @contextmanager
    def _beside(self, job: _Job, thread: int) -> Iterator[None]:
        """On a GPU: on the thread's stream, behind all that the job has been through."""
        if job.ready is None:
            yield
            return
        device = job.bucket.bundle.device
        with torch.cuda.device(device):
            if (device, thread) not in self._streams:
                self._streams[device, thread] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = self._streams[device, thread]
            stream.wait_event(job.ready)
            with torch.cuda.stream(stream):
                yield

    def start(
        self, bucket: Bucket, step: int, tensors: list[torch.Tensor], result: torch.Tensor
    ) -> torch.futures.Future[torch.Tensor]:
        """Reduces tensors in place; the future then gives `result`. Jobs are worked off in this order, the same on all ranks."""
        job = _Job(bucket, step, tensors, result, self._started, self._faults)
        self._started += 1
        self._threads[0].submit(self._scatter, job)
        return job.future

    def drain(self) -> None:
        """Waits until nothing is under way: after an error in one bucket, others still are."""
        self._threads[0].submit(self._threads[1].submit, int).result().result()

    def _scatter(self, job: _Job) -> None:
        bucket, began = job.bucket, time.monotonic()
        try:
            with self._beside(job, 0):
                bucket.bundle.encode(job.step, job.tensors, bucket.sent)
                if bucket.received.numel() != 0:
                    dist.all_to_all_single(
                        bucket.received, bucket.sent, bucket.bundle.receives, bucket.bundle.sends, group=self._groups[0]
                    )
                job.hand_over()
        except Exception as error:
            job.fail(error)
            return
        bucket.seconds += time.monotonic() - began
        self._threads[1].submit(self._gather, job)

    def _gather(self, job: _Job) -> None:
        bucket, began = job.bucket, time.monotonic()
        try:
            with self._beside(job, 1):
                bucket.bundle.reduce(bucket.received, bucket.own)
                dist.all_gather_into_tensor(bucket.gathered, bucket.own, group=self._groups[1])
                bucket.bundle.finish(bucket.gathered, job.tensors)
                bucket.bundle.poll()  # on a GPU this thread waits, so that a fault is known before anybody uses what is there
                bucket.seconds += time.monotonic() - began
                bucket.steps += 1
                job.future.set_result(job.result)
        except Exception as error:
            job.fail(error)
