# SPDX-License-Identifier: Apache-2.0
"""FSDP2's exchanges, on processes over gloo."""

import unittest

import torch
from test_ddp import data, model_of, processes, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tacit.torch


def sharded(ranks):
    torch.manual_seed(1)
    model = model_of()
    mesh = init_device_mesh("cpu", (ranks,))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(model):
    return torch.cat([parameter.full_tensor().reshape(-1) for parameter in model.parameters()]).tolist()


def converge(rank, ranks):
    plain, exact, model = sharded(ranks), sharded(ranks), sharded(ranks)
    tacit.torch.compress(exact, "none", parameters="none")
    compression = tacit.torch.compress(model)
    losses = train(plain, rank, range(60)), train(exact, rank, range(60)), train(model, rank, range(60))
    sent = sum(exchange.sent_bytes for exchange in compression.exchanges if exchange.name.startswith("2/"))
    dense = sum(exchange.dense_bytes for exchange in compression.exchanges if exchange.name.startswith("2/"))
    return [sum(row[-10:]) for row in losses], whole(plain), whole(exact), dense / sent, compression.summary()


def stumble(rank, ranks):
    model = sharded(ranks)
    tacit.torch.compress(model)
    train(model, rank, range(2))
    x, y = data(rank, 3)
    try:
        torch.nn.functional.mse_loss(model(x * (torch.nan if rank == 1 else 1)), y).backward()
    except RuntimeError as error:
        return str(error)
    return ""


class FSDPTest(unittest.TestCase):
    def test_converges(self):
        by_rank = processes(2, converge)
        (plain, exact, compressed), dense_parameters, exact_parameters, ratio, summary = by_rank[0]
        self.assertLess(abs(compressed - plain), 0.05 * plain)
        self.assertGreater(ratio, 3)
        self.assertIn("2/gradients", summary)
        for mine, theirs in zip(dense_parameters, exact_parameters):
            self.assertAlmostEqual(mine, theirs, delta=1e-5)

    def test_nan_is_everybodys(self):
        for text in processes(3, stumble).values():
            self.assertIn("rank 1: slot", text)


if __name__ == "__main__":
    unittest.main()
