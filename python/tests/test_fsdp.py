# SPDX-License-Identifier: Apache-2.0
"""FSDP2's exchanges, on processes over gloo."""

import os
import tempfile
import unittest

import torch
from test_ddp import data, model_of, processes, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tacit
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


def ratio(compression, prefix):
    exchanges = [exchange for exchange in compression.exchanges if exchange.name.startswith(prefix)]
    return sum(exchange.dense_bytes for exchange in exchanges) / sum(exchange.sent_bytes for exchange in exchanges)


def converge(rank, ranks):
    plain, exact, model = sharded(ranks), sharded(ranks), sharded(ranks)
    tacit.torch.compress(exact, "none", parameters="none")
    compression = tacit.torch.compress(model)
    losses = train(plain, rank, range(60)), train(exact, rank, range(60)), train(model, rank, range(60))
    return [sum(row[-10:]) for row in losses], whole(plain), whole(exact), ratio(compression, "2/"), compression.summary()


def stumble(rank, ranks):
    """A step fails, and the training goes on as if it had not been."""
    model, twin = sharded(ranks), sharded(ranks)
    tacit.torch.compress(model, "qsgd:bits=8,rounding=nearest", parameters="none")
    tacit.torch.compress(twin, "qsgd:bits=8,rounding=nearest", parameters="none")
    train(model, rank, range(2))
    train(twin, rank, range(2))
    x, y = data(rank, 3)
    text = ""
    try:
        torch.nn.functional.mse_loss(model(x * (torch.nan if rank == 1 else 1)), y).backward()
    except tacit.TacitError as error:
        text = str(error)
    train(model, rank, range(4, 7))
    train(twin, rank, range(4, 7))
    return text, whole(model) == whole(twin)


def changes(rank, ranks):
    """Parameters as what has changed of them, at 4 bits; gradients with feedback, dense at first."""
    plain, model = sharded(ranks), sharded(ranks)
    compression = tacit.torch.compress(model, "onebit+ef", parameters="qsgd:bits=4+ef21:init=zero", warmup_steps=5)
    losses = train(plain, rank, range(60)), train(model, rank, range(60))
    return [sum(row[-10:]) for row in losses], ratio(compression, "2/"), refusals(ranks)


def refusals(ranks):
    texts = []
    for options in ({"spec": "topk+ef"}, {"parameters": "randk"}, {"strict": True}):
        try:
            tacit.torch.compress(sharded(ranks), **options)
        except (RuntimeError, ValueError) as error:
            texts.append(str(error))
    return texts


def resume(rank, ranks, folder):
    """With memory; parameters travel as they are, so that those of the model are all there is beside it."""

    def fresh():
        model = sharded(ranks)
        return model, tacit.torch.compress(model, "onebit+ef", parameters="none", warmup_steps=2)

    model, _ = fresh()
    train(model, rank, range(8))
    first, compression = fresh()
    train(first, rank, range(4))
    path = os.path.join(folder, f"{rank}.pt")
    torch.save({"model": first.state_dict(), "tacit": compression.state_dict()}, path)
    again, compression = fresh()
    saved = torch.load(path, weights_only=False)
    again.load_state_dict(saved["model"])
    compression.load_state_dict(saved["tacit"])
    train(again, rank, range(4, 8))
    return whole(model), whole(again), of_another(rank, ranks, saved["tacit"])


def of_another(rank, ranks, state):
    """Of as many modules, but not of their shapes."""
    model = torch.nn.Sequential(*[torch.nn.Linear(20, 20) if i % 2 == 0 else torch.nn.Tanh() for i in range(5)])
    mesh = init_device_mesh("cpu", (ranks,))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    tacit.torch.compress(model, "onebit+ef", parameters="none", warmup_steps=2).load_state_dict(state)
    try:
        model(torch.randn(4, 20)).sum().backward()
    except ValueError as error:
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

    def test_resume(self):
        with tempfile.TemporaryDirectory() as folder:
            for uninterrupted, again, text in processes(2, resume, folder).values():
                self.assertTrue(uninterrupted == again, "parameters differ")
                self.assertIn("it is of another model", text)

    def test_changes(self):
        (plain, compressed), ratio, texts = processes(2, changes)[0]
        self.assertLess(abs(compressed - plain), 0.1 * plain)
        self.assertGreater(ratio, 4)  # five of 60 steps are dense
        self.assertIn("works by blocks", texts[0])
        self.assertIn("works by blocks", texts[1])
        self.assertIn("strict", texts[2])

    def test_nan_is_everybodys(self):
        for text, goes_on in processes(3, stumble).values():
            self.assertIn("rank 1: slot", text)
            self.assertTrue(goes_on, "the training does not go on as it should")


if __name__ == "__main__":
    unittest.main()
