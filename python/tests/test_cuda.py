# SPDX-License-Identifier: Apache-2.0
"""DDP and FSDP2 on a GPU that two processes share: the losses of the CPU, within rounding."""

import os
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tacit.torch


def train(rank: int, ranks: int, device: str, shards: bool, store: str, losses: list[float]) -> None:
    os.environ["NCCL_HOSTID"] = str(rank)  # or NCCL refuses to have two ranks on one GPU
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks
    )
    torch.manual_seed(0)
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
        for shards in (False, True):
            with self.subTest(shards=shards), mp.Manager() as manager, tempfile.TemporaryDirectory() as folder:
                losses = {device: manager.list([0.0] * 30) for device in ("cpu", "cuda")}
                for device, kept in losses.items():
                    mp.spawn(train, (2, device, shards, os.path.join(folder, device), kept), nprocs=2)
                for step, (cpu, cuda) in enumerate(zip(losses["cpu"], losses["cuda"])):
                    self.assertAlmostEqual(cpu, cuda, delta=0.02 * abs(cpu) + 1e-3, msg=f"step {step}")
                self.assertLess(losses["cuda"][-1], 0.7 * losses["cuda"][0])


if __name__ == "__main__":
    unittest.main()
