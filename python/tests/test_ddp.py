# SPDX-License-Identifier: Apache-2.0
"""The DDP hook, on processes over gloo."""

import os
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import tacit.torch


def processes(ranks, body, *arguments):
    """Runs body(rank, ranks, ...) in each; returns what they return, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (ranks, folder, body, arguments), nprocs=ranks)
        return {rank: torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(ranks)}


def _enter(rank, ranks, folder, body, arguments):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(body(rank, ranks, *arguments), os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def model_of(dtype=torch.float32):
    return torch.nn.Sequential(
        torch.nn.Linear(20, 60), torch.nn.Tanh(), torch.nn.Linear(60, 60), torch.nn.Tanh(), torch.nn.Linear(60, 1)
    ).to(dtype)


def data(rank, step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(16, 20, generator=generator)
    return x.to(dtype), (x[:, :1] * x[:, 1:2] + x[:, 2:3]).to(dtype)


def train(model, rank, steps, rate=0.05):
    """Returns the losses."""
    optimizer, losses = torch.optim.SGD(model.parameters(), rate), []
    for step in steps:
        x, y = data(rank, step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def flat(model):
    return torch.cat([parameter.detach().float().reshape(-1) for parameter in model.parameters()]).tolist()


def ddp_of(bucket_cap_mb=0.01, dtype=torch.float32):
    return DistributedDataParallel(model_of(dtype), bucket_cap_mb=bucket_cap_mb)


SPECS = (
    "",
    "none",
    "onebit:block=64+ef",
    "powersgd:rank=1+ef",
    "topk:ratio=0.05+ef",
    "topk:ratio=0.05+dgc:momentum=0.5",
)


def converge(rank, ranks):
    """By spec: the loss at first and at last, the parameters, and the summary."""
    results = {}
    for spec, dtype in [*((spec, torch.float32) for spec in SPECS), ("qsgd:bits=8+ef", torch.bfloat16)]:
        torch.manual_seed(1)
        model = ddp_of(dtype=dtype)
        compression = tacit.torch.compress(model, spec, warmup_steps=2) if spec else None
        losses = train(model, rank, range(60))
        results[spec] = sum(losses[:5]) / 5, sum(losses[-5:]) / 5, flat(model), compression.summary() if spec else ""
    return results


def refusals(rank, ranks):
    texts = []
    try:
        tacit.torch.compress(ddp_of(), "onebitt")
    except tacit.TacitError as error:
        texts.append(str(error))
    return texts


def stumble(rank, ranks):
    model = ddp_of()
    compression = tacit.torch.compress(model, "onebit:block=64+ef", strict=True)
    train(model, rank, range(3))
    before = compression.state_dict()["codecs"]
    text = ""
    try:
        x, y = data(rank, 3)
        torch.nn.functional.mse_loss(model(x * (torch.nan if rank == 1 else 1)), y).backward()
    except RuntimeError as error:
        text = str(error)
    after = compression.state_dict()["codecs"]
    return text, all(torch.equal(before[name], after[name]) for name in before)


def resume(rank, ranks, folder):
    def fresh():
        torch.manual_seed(1)
        model = ddp_of()
        return model, tacit.torch.compress(model, "topk:ratio=0.1+ef")

    whole, _ = fresh()
    train(whole, rank, range(8))
    first, compression = fresh()
    train(first, rank, range(4))
    path = os.path.join(folder, f"{rank}.pt")
    torch.save({"model": first.module.state_dict(), "tacit": compression.state_dict()}, path)
    again, compression = fresh()
    saved = torch.load(path)
    again.module.load_state_dict(saved["model"])
    compression.load_state_dict(saved["tacit"])
    train(again, rank, range(4, 8))
    return flat(whole), flat(again)


def rebuild(rank, ranks):
    model = ddp_of()
    compression = tacit.torch.compress(model, "onebit+ef")
    train(model, rank, range(1))
    first = {name: id(codec) for name, codec in compression._codecs.items()}
    buckets = set(compression._buckets)
    train(model, rank, range(1, 4))
    kept = all(id(codec) == first[name] for name, codec in compression._codecs.items())
    return kept, len(set(compression._buckets) - buckets)


class DDPTest(unittest.TestCase):
    def test_converges(self):
        for ranks in (2, 4):
            by_rank = processes(ranks, converge)
            for spec, (first, last, parameters, summary) in by_rank[0].items():
                with self.subTest(spec=spec, ranks=ranks):
                    self.assertLess(last, 0.8 * first)
                    for rank in range(ranks):
                        self.assertEqual(by_rank[rank][spec][2], parameters, "replicas differ")
                    self.assertEqual("ratio" in summary, spec != "")
            for mine, theirs in zip(by_rank[0][""][2], by_rank[0]["none"][2]):
                self.assertAlmostEqual(mine, theirs, delta=1e-5)

    def test_refusals(self):
        (text,) = processes(2, refusals)[0]
        self.assertIn("onebitt", text)
        with self.assertRaisesRegex(TypeError, r"DistributedDataParallel or fully_shard\(\)"):
            tacit.torch.compress(model_of(), "onebit+ef")

    def test_nan_is_everybodys(self):
        by_rank = processes(3, stumble)
        self.assertIn("rank 1: slot", by_rank[0][0])
        for text, same in by_rank.values():
            self.assertEqual(text.splitlines()[0], by_rank[0][0].splitlines()[0])
            self.assertTrue(same, "memory has changed")

    def test_resume(self):
        with tempfile.TemporaryDirectory() as folder:
            for whole, again in processes(2, resume, folder).values():
                self.assertEqual(whole, again)

    def test_rebuilt_buckets(self):
        for kept, rebuilt in processes(2, rebuild).values():
            self.assertTrue(kept)
            self.assertGreater(rebuilt, 0)


if __name__ == "__main__":
    unittest.main()
