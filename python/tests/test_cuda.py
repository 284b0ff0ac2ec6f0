# SPDX-License-Identifier: Apache-2.0
"""DDP, FSDP2 and a mixture of experts on a GPU that two processes share: the losses of the CPU, within rounding."""

import os
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tacit.torch


def join(rank: int, ranks: int, device: str, store: str) -> None:
    os.environ["NCCL_HOSTID"] = str(rank)  # or NCCL refuses to have two ranks on one GPU
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks
    )
    torch.manual_seed(0)


def mix(rank: int, ranks: int, device: str, store: str, losses: list[float]) -> None:
    join(rank, ranks, device, store)
    exchange = tacit.torch.TokenExchange("layer", 40, ranks, 16, spec="bf16")
    expert, gate = torch.nn.Linear(40, 40).to(device), torch.nn.Linear(40, ranks).to(device)
    optimizer = torch.optim.SGD([*expert.parameters(), *gate.parameters()], 0.5)
    generator = torch.Generator().manual_seed(2 + rank)
    for step in range(30):
        x = torch.randn(16, 40, generator=generator).to(device)
        weights, chosen = gate(x).softmax(1).topk(2)
        batch = exchange.dispatch(x, chosen)
        loss = (exchange.combine(batch, expert(batch.rows), weights) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        dist.all_reduce(gate.weight.grad)
        dist.all_reduce(gate.bias.grad)
        optimizer.step()
        if rank == 0:
            losses[step] = loss.item()
    dist.destroy_process_group()


def train(rank: int, ranks: int, device: str, store: str, losses: list[float], shards: bool) -> None:
    join(rank, ranks, device, store)
    model = torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1)).to(device)
    if shards:
        fully_shard(model, mesh=init_device_mesh(device, (ranks,)))
        tacit.torch.compress(model, warmup_steps=3)
    else:
        model = torch.nn.parallel.DistributedDataParallel(model)
        tacit.torch.compress(model, "onebit+ef", warmup_steps=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    teacher = torch.randn(40, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2 + rank)
    for step in range(30):
        x = torch.randn(16, 40, generator=generator)
        loss = (model(x.to(device)).squeeze(1) - (x @ teacher).to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            losses[step] = loss.item()
    dist.destroy_process_group()


class Cuda(unittest.TestCase):
    @unittest.skipUnless(torch.cuda.is_available() and dist.is_nccl_available(), "skipped: PyTorch finds no GPU, or has no NCCL")
    def test_losses(self) -> None:
        for body, *arguments in ((train, False), (train, True), (mix,)):
            with self.subTest(body.__name__, arguments=arguments), mp.Manager() as manager, tempfile.TemporaryDirectory() as folder:
                losses = {device: manager.list([0.0] * 30) for device in ("cpu", "cuda")}
                for device, kept in losses.items():
                    mp.spawn(body, (2, device, os.path.join(folder, device), kept, *arguments), nprocs=2)
                for step, (cpu, cuda) in enumerate(zip(losses["cpu"], losses["cuda"])):
                    self.assertAlmostEqual(cpu, cuda, delta=0.02 * abs(cpu) + 1e-3, msg=f"step {step}")
                self.assertLess(losses["cuda"][-1], 0.7 * losses["cuda"][0])


if __name__ == "__main__":
    unittest.main()
