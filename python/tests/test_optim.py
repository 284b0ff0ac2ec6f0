# SPDX-License-Identifier: Apache-2.0
"""1-bit Adam, on processes over gloo."""

import math
import os
import tempfile
import unittest

import torch
from test_ddp import data, flat, model_of, processes

import tacit.torch


def backward(model, rank, step, factor=1):
    x, y = data(rank, step)
    model.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x * factor), y)
    loss.backward()
    return float(loss.detach())


def fresh(**options):
    torch.manual_seed(1)
    model = model_of()
    return model, tacit.torch.OneBitAdam(model.named_parameters(), 3e-3, **{"warmup_steps": 15, **options})


def train(model, optimizer, rank, steps):
    losses = []
    for step in steps:
        losses.append(backward(model, rank, step))
        optimizer.step()
    return losses


def converge(rank, ranks):
    torch.manual_seed(rank)  # the optimizer has all begin as rank 0
    model = model_of()
    torch.manual_seed(0)
    adam = model_of()
    losses = train(model, tacit.torch.OneBitAdam(model.parameters(), 3e-3, warmup_steps=30), rank, range(120))
    optimizer = torch.optim.AdamW(adam.parameters(), 3e-3, weight_decay=0)
    dense = []
    for step in range(120):
        adam.zero_grad()
        total = sum(torch.nn.functional.mse_loss(adam(x), y) for x, y in (data(other, step) for other in range(ranks))) / ranks
        dense.append(float(total.detach()))
        total.backward()
        optimizer.step()
    return losses, dense, flat(model)


def reference(rank, ranks):
    """Algorithm 1 in doubles, by hand, with spec none, beside the optimizer: parameters after each of 12 steps."""
    beta1, beta2, eps, rate, decay, freeze = 0.8, 0.95, 1e-6, 0.01, 0.1, 5
    target = torch.tensor([[1.0, -2.0, 0.5, 0.0], [3.0, 0.25, -1.0, 0.0]])
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 8).reshape(2, 4))
    optimizer = tacit.torch.OneBitAdam(
        [weight], rate, (beta1, beta2), eps, decay, warmup_steps=freeze, spec="none"
    )
    w = weight.detach().double()
    m, v, worst = torch.zeros_like(w), torch.zeros_like(w), 0.0
    most = max(1.0, (1 - beta1) / math.sqrt(1 - beta2))

    def gradient(values, of, step):
        result = (values - target.to(values)) * (1 + of) * (20 if step == 8 else 1)
        result[:, 3] = 0  # never a gradient: frozen at zero
        return result

    for step in range(12):
        gradients = [gradient(w, of, step) for of in range(ranks)]
        weight.grad = gradient(weight.detach(), rank, step)
        optimizer.step()
        correct1, correct2 = 1 / (1 - beta1 ** (step + 1)), 1 / math.sqrt(1 - beta2 ** min(step + 1, freeze))
        if step < freeze:
            mean = sum(gradients) / ranks
            m, v = beta1 * m + (1 - beta1) * mean, beta2 * v + (1 - beta2) * mean * mean
        else:
            limit = most * (v.sqrt() * correct2 + eps) / correct1
            m = sum((beta1 * m + (1 - beta1) * g).clamp(-limit, limit) for g in gradients) / ranks
        update = m * correct1 / (v.sqrt() * correct2 + eps) + decay * w
        if step >= freeze:
            update[v == 0] = 0
        w = w - rate * update
        worst = max(worst, float((weight.detach() - w).abs().max()))
    return worst


def stumble(rank, ranks):
    return [stumble_once(rank, frozen) for frozen in (False, True)]


def stumble_once(rank, frozen):
    model, optimizer = fresh(warmup_steps=2 if frozen else 20)
    train(model, optimizer, rank, range(4))
    before, values = optimizer.state_dict(), flat(model)
    backward(model, rank, 4, torch.nan if rank == 1 else 1)
    try:
        optimizer.step()
        text = ""
    except tacit.TacitError as error:
        text = str(error)
    after = optimizer.state_dict()
    same = values == flat(model) and before["tacit"]["steps"] == after["tacit"]["steps"]
    same = same and all(torch.equal(before["state"][i]["exp_avg"], after["state"][i]["exp_avg"]) for i in before["state"])
    train(model, optimizer, rank, range(5, 7))
    return text, same, flat(model)


def resume(rank, ranks, folder):
    whole, optimizer = fresh()
    train(whole, optimizer, rank, range(30))
    return [(flat(whole), flat(resumed(rank, folder, at))) for at in (10, 15, 22)]  # in the warm-up, at its end, after it


def resumed(rank, folder, at):
    first, optimizer = fresh()
    train(first, optimizer, rank, range(at))
    path = os.path.join(folder, f"{rank}.pt")
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, path)
    again, optimizer = fresh()
    saved = torch.load(path)
    again.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    optimizer.load_state_dict(optimizer.state_dict())  # what is loaded and not yet used is saved too
    train(again, optimizer, rank, range(at, 30))
    return again


def refuse(rank, ranks):
    texts = []
    for options in ({"spec": "topk:ratio=0.1+dgc"}, {"spec": "onebitt"}, {"warmup_steps": 0}):
        try:
            fresh(**options)
        except (ValueError, tacit.TacitError) as error:
            texts.append(str(error))
    return texts


class OneBitAdamTest(unittest.TestCase):
    def test_converges_as_adam_does(self):
        for ranks in (2, 3):
            by_rank = processes(ranks, converge)
            losses, dense, parameters = by_rank[0]
            mine = sum(sum(by_rank[rank][0][-10:]) for rank in range(ranks)) / ranks
            self.assertLess(mine, 1.3 * sum(dense[-10:]))
            self.assertLess(mine, 0.7 * sum(losses[:10]))
            for rank in range(ranks):
                self.assertEqual(by_rank[rank][2], parameters, "replicas differ")

    def test_reference(self):
        for worst in processes(2, reference).values():
            self.assertLess(worst, 12 * 8 * 2.0**-23)  # a few roundings of values below 4, in each of 12 steps

    def test_nan_is_everybodys(self):
        by_rank = processes(2, stumble)
        for frozen in (False, True):
            (text, kept, values), (other, also_kept, other_values) = by_rank[0][frozen], by_rank[1][frozen]
            self.assertIn("rank 1: slot" if frozen else "mean gradient", text)
            self.assertEqual(text, other)
            self.assertEqual(values, other_values, "replicas differ afterwards")
            self.assertTrue(kept and also_kept, "something has changed")

    def test_resume(self):
        with tempfile.TemporaryDirectory() as folder:
            for results in processes(2, resume, folder).values():
                for whole, again in results:
                    self.assertEqual(whole, again)

    def test_refusals(self):
        first, second, third = processes(2, refuse)[0]
        self.assertIn("momentum of its own", first)
        self.assertIn("onebitt", second)
        self.assertIn("warmup_steps", third)


if __name__ == "__main__":
    unittest.main()
