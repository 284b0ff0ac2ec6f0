# SPDX-License-Identifier: Apache-2.0
"""1-bit Adam as an optimizer: Tang et al., "1-bit Adam" (ICML 2021), algorithm 1, as the library's onebit-adam has it.

What travels are moments in units of the update they make, limited to what Adam's could be; elements whose second moment is zero when
it is frozen are left out and stay where they are (doc/optimizers.md says why).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from .._library import Status, TacitError
from . import settings
from .codec import Codec
from .exchange import Bucket, Exchanges


class OneBitAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay, which averages gradients itself: of a model without DistributedDataParallel.

    For `warmup_steps` steps gradients are averaged dense; 15 to 25 % of a training is advised. Then the second moment is frozen, and
    the first one travels by `spec`. Parameters, float32 on one device, begin as those of rank 0, and are the same bits on all ranks.
    A gradient that is None counts as zero. NaN or infinity on one rank raises on all, and nothing has changed then.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int,
        spec: str = "onebit+ef",
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
    ) -> None:
        settings.check(warmup_steps=warmup_steps, nonfinite="error", strict=False, seed=seed, spec=spec)
        if lr < 0 or eps <= 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas) or warmup_steps < 1:
            raise ValueError("lr and weight_decay are at least 0, eps above it, betas in [0, 1), warmup_steps at least 1")
        if "+dgc" in spec:
            raise ValueError(f"'{spec}' brings a momentum of its own, which does not go with Adam's; use '+ef'")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._device = next(parameter.device for parameter, _ in self._each())
        for parameter, _ in self._each():
            if parameter.dtype != torch.float32 or parameter.device != self._device:
                raise TypeError(
                    f"parameters in float32 on one device are needed, not {parameter.dtype} on {parameter.device} after {self._device}"
                )
        Bucket([Codec("spec", (64, 64), spec, device=self._device)])
        self.warmup_steps, self.spec, self.steps = warmup_steps, spec, 0
        self._group, self._seed = group, seed
        self._rank, self._ranks = dist.get_rank(group), dist.get_world_size(group)
        settings.agree(group, self._device, {"spec": spec, "warmup_steps": warmup_steps, "seed": seed})
        self._exchanges = Exchanges(group)
        self._active: list[torch.Tensor | None] = []  # of each parameter: the elements that travel, or None for all
        self._bucket: Bucket | None = None
        self._loaded: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for parameter, _ in self._each():
                start = parameter.contiguous()
                dist.broadcast(start, dist.get_process_group_ranks(group)[0], group)
                parameter.copy_(start)
                self.state[parameter] = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def _each(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        return ((parameter, group) for group in self.param_groups for parameter in group["params"])

    # ---- A step ----

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.steps < self.warmup_steps:
            self._dense()
        else:
            self._compressed()
        self.steps += 1
        return loss

    def _gradient(self, parameter: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _dense(self) -> None:
        mean = torch.cat([self._gradient(parameter).reshape(-1) for parameter, _ in self._each()])
        dist.all_reduce(mean, group=self._group)
        mean /= self._ranks
        if not mean.isfinite().all():
            raise TacitError(
                Status.ERR_VALUE, f"the mean gradient at step {self.steps} holds NaN or infinity; nothing was changed. Skip the step"
            )
        parts = torch.split(mean, [parameter.numel() for parameter, _ in self._each()])
        for (parameter, group), part in zip(self._each(), parts):
            gradient, (beta1, beta2) = part.view_as(parameter), group["betas"]
            self.state[parameter]["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
            self.state[parameter]["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            self._move(parameter, group)

    def _compressed(self) -> None:
        if self._bucket is None and not self._active:
            self._freeze()
        travelling = [
            work.view(-1) if active is None else work.view(-1)[active]
            for (parameter, group), active in zip(self._each(), self._active)
            for work in [self._update(parameter, group)]
        ]
        if self._bucket is not None:
            tensors = [tensor for tensor in travelling if tensor.numel() != 0]
            self._exchanges.start(self._bucket, self.steps, tensors, tensors[0]).wait()
        for (parameter, group), active, mean in zip(self._each(), self._active, travelling):
            moment = self.state[parameter]["exp_avg"]
            if active is None:
                moment.copy_(mean.view_as(moment))
            else:
                moment.zero_().view(-1)[active] = mean
            moment *= self._unit(parameter, group)
            self._move(parameter, group, active)

    def _freeze(self) -> None:
        """Which elements travel follows from the second moment alone."""
        codecs = []
        for i, (parameter, _) in enumerate(self._each()):
            active = self.state[parameter]["exp_avg_sq"].view(-1) != 0
            count = int(active.sum())
            self._active.append(None if count == parameter.numel() else active.nonzero().view(-1))
            if count != 0:
                name, shape = self._name(i), tuple(parameter.shape) if count == parameter.numel() else (count,)
                codecs.append(
                    Codec(name, shape, self.spec, device=self._device, rank=self._rank, ranks=self._ranks, seed=self._seed)
                )
                if name in self._loaded:
                    codecs[-1].load(self._loaded.pop(name))
        self._bucket = Bucket(codecs) if codecs else None

    def _name(self, index: int) -> str:
        names = [name for group in self.param_groups for name in group.get("param_names", [None] * len(group["params"]))]
        return str(names[index] or f"parameter{index}")

    # ---- Arithmetic: optim/moments.h ----

    def _corrections(self, group: dict[str, Any]) -> tuple[float, float]:
        """Factors that make up for the moments' beginning at zero; that of the second one is frozen with it."""
        beta1, beta2 = group["betas"]
        updates = self.steps + 1
        return 1 / (1 - beta1**updates), 1 / math.sqrt(1 - beta2 ** min(updates, self.warmup_steps))

    def _unit(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        root: torch.Tensor = self.state[parameter]["exp_avg_sq"].sqrt()
        return root.add_(group["eps"])

    def _divisor(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        root: torch.Tensor = self.state[parameter]["exp_avg_sq"].sqrt()
        return root.mul_(self._corrections(group)[1]).add_(group["eps"])

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """The first moment as this rank sees it, no larger than Adam's could be, in units of the update."""
        beta1, beta2 = group["betas"]
        moment = self.state[parameter]["exp_avg"].contiguous() * beta1 + self._gradient(parameter) * (1 - beta1)
        most = self._divisor(parameter, group).mul_(max(1.0, (1 - beta1) / math.sqrt(1 - beta2)) / self._corrections(group)[0])
        moment = torch.where(moment.isfinite(), moment.clamp(-most, most), moment)
        return moment.div_(self._unit(parameter, group)).contiguous()

    def _move(self, parameter: torch.Tensor, group: dict[str, Any], active: torch.Tensor | None = None) -> None:
        update = self.state[parameter]["exp_avg"] * self._corrections(group)[0] / self._divisor(parameter, group)
        if group["weight_decay"] != 0:
            update += group["weight_decay"] * parameter
        if active is not None:
            stays = torch.ones(parameter.numel(), dtype=torch.bool, device=parameter.device)
            stays[active] = False
            update.view(-1)[stays] = 0
        parameter.sub_(update, alpha=group["lr"])

    # ---- Checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Moments, which all ranks have alike, and what this rank remembers: each rank saves its own."""
        codecs = {codec.name: codec.save() for codec in (self._bucket.bundle.codecs if self._bucket else [])}
        mine = {"steps": self.steps, "codecs": {**self._loaded, **codecs}}
        return {**super().state_dict(), "tacit": {**self._identity(), **mine}}

    def _identity(self) -> dict[str, Any]:
        return {
            "spec": self.spec,
            "rank": self._rank,
            "ranks": self._ranks,
            "warmup_steps": self.warmup_steps,
            "seed": self._seed,
            "shapes": [tuple(parameter.shape) for parameter, _ in self._each()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a rank's own state_dict() back, with the same spec and as many ranks."""
        if "tacit" not in state_dict:
            raise ValueError("the state is of another optimizer: it has nothing of OneBitAdam's")
        mine = state_dict["tacit"]
        settings.expect(mine, self._identity())
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "tacit"})
        self.steps, self._loaded = mine["steps"], dict(mine["codecs"])
        self._active, self._bucket = [], None
