# SPDX-License-Identifier: Apache-2.0
"""The DDP hook, on processes over gloo."""

import multiprocessing
import os
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import tacit.torch
from tacit.torch.exchange import Faults

# Processes are forked from one that has imported PyTorch, which takes longer than what is tested.
multiprocessing.set_forkserver_preload(["tacit.torch", "torch.distributed.fsdp"])


def processes(ranks, body, *arguments):
    """Runs body(rank, ranks, ...) in each; returns what they return, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_enter, (ranks, folder, body, arguments), nprocs=ranks, start_method="forkserver")
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


REFUSED = (
    ({"spec": "onebitt"}, "onebitt"),
    ({"spec": 5}, "spec is a text"),
    ({"warmup_steps": -1}, "warmup_steps is a whole number from 0 on, not -1"),
    ({"warmup_steps": 2.5}, "warmup_steps is a whole number from 0 on, not 2.5"),
    ({"seed": "x"}, "seed is a whole number"),
    ({"nonfinite": "ignore"}, "nonfinite is one of error, skip, pass, not 'ignore'"),
    ({"strict": "yes"}, "strict is True or False"),
    ({"parameters": "none"}, "by FSDP only"),
)


def refusal(call):
    try:
        call()
    except (TypeError, ValueError, tacit.TacitError) as error:
        return str(error)
    return "not refused"


def refusals(rank, ranks):
    texts = [refusal(lambda: tacit.torch.compress(ddp_of(), **options)) for options, _ in REFUSED]
    texts.append(refusal(lambda: tacit.torch.compress(ddp_of(dtype=torch.float64))))
    texts.append(refusal(lambda: tacit.torch.compress(ddp_of(), warmup_steps=2 + rank)))
    model = ddp_of()
    compression = tacit.torch.compress(model, "qsgd:bits=4+ef")
    texts.append(refusal(lambda: tacit.torch.compress(model)))
    train(model, rank, range(3))
    state = compression.state_dict()
    texts.append(refusal(lambda: compression.load_state_dict({})))
    texts.append(refusal(lambda: compression.load_state_dict({**state, "ranks": 5})))
    texts.append(refusal(lambda: compression.load_state_dict({**state, "shapes": {**state["shapes"], "0.bias": (7,)}})))
    return texts


def stumble(rank, ranks):
    """A step fails, and the training goes on as if it had not been."""
    model, twin = ddp_of(), ddp_of()
    twin.module.load_state_dict(model.module.state_dict())
    compression = tacit.torch.compress(model, "onebit:block=64+ef", strict=True)
    tacit.torch.compress(twin, "onebit:block=64+ef", strict=True)
    train(model, rank, range(3))
    train(twin, rank, range(3))
    before = compression.state_dict()["codecs"]
    text = ""
    try:
        x, y = data(rank, 3)
        torch.nn.functional.mse_loss(model(x * (torch.nan if rank == 1 else 1)), y).backward()
    except tacit.TacitError as error:
        text = f"{error.status.name} {error}"
    after = compression.state_dict()["codecs"]
    unchanged = all(torch.equal(before[name], after[name]) for name in before)
    compression.step -= 1  # the same random numbers
    train(model, rank, range(4, 7))
    train(twin, rank, range(4, 7))
    return text, unchanged, flat(model) == flat(twin)


def resume(rank, ranks, folder, spec):
    def fresh():
        torch.manual_seed(1)
        model = ddp_of()
        return model, tacit.torch.compress(model, spec)

    whole, _ = fresh()
    train(whole, rank, range(8))
    first, compression = fresh()
    train(first, rank, range(4))
    path = os.path.join(folder, f"{rank}.pt")
    torch.save({"model": first.module.state_dict(), "tacit": compression.state_dict()}, path)
    again, compression = fresh()
    saved = torch.load(path)  # of tensors and plain values alone
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


def break_off(rank, ranks):
    """A backward pass ends between two buckets; the next step is that of a training for which this never happened."""

    def fail(*_):
        raise KeyError("the program's own")

    model, twin = ddp_of(), ddp_of()
    twin.module.load_state_dict(model.module.state_dict())
    compressions = [tacit.torch.compress(one, "onebit:block=64+ef") for one in (model, twin)]
    for one, compression in zip((model, twin), compressions):
        train(one, rank, range(3))
        compression.load_state_dict(compression.state_dict())  # the next step waits for all buckets
    handle = model.module[1].register_full_backward_hook(fail)
    try:
        train(model, rank, range(3, 4))
    except KeyError:
        handle.remove()
    for one in (model, twin):
        one._update_process_group(one.process_group)  # or DDP would have no next step
        train(one, rank, range(4, 5))
    layouts = [compression.state_dict()["layout"] for compression in compressions]
    return flat(model) == flat(twin), layouts[0], layouts[1]


class DDPTest(unittest.TestCase):
    def test_faults(self):
        """Of a backward pass are raised at its end, whatever has become of the one before."""
        faults, x = Faults(), torch.ones(3, requires_grad=True)

        def backward(*errors, breaks_off=False):
            def hook(gradient):
                faults.watch()
                for number, error in errors:
                    faults.note(error, number)
                if breaks_off:
                    raise KeyError("the program's own")
                return gradient

            product = x * 2
            product.register_hook(hook)
            product.sum().backward()

        with self.assertRaises(KeyError):
            backward((1, ValueError("late")), breaks_off=True)
        backward()
        with self.assertRaisesRegex(ValueError, "first"):
            backward((7, ValueError("second")), (3, ValueError("first")))
        backward()

    def test_converges(self):
        for ranks in (2, 4):
            by_rank = processes(ranks, converge)
            for spec, (first, last, parameters, summary) in by_rank[0].items():
                with self.subTest(spec=spec, ranks=ranks):
                    self.assertLess(last, 0.8 * first)
                    for rank in range(ranks):
                        self.assertEqual(by_rank[rank][spec][2], parameters, "replicas differ")
                    self.assertEqual("ratio" in summary, spec != "")
                    self.assertEqual("below 1.0" in summary, spec == "none" and ranks == 4)  # for headers
            for mine, theirs in zip(by_rank[0][""][2], by_rank[0]["none"][2]):
                self.assertAlmostEqual(mine, theirs, delta=1e-5)

    def test_refusals(self):
        texts = processes(2, refusals)[1]
        expected = [words for _, words in REFUSED]
        expected += ["parameter '0.weight' is torch.float64", "warmup_steps is 2 on rank 0 and 3 on rank 1", "compressed already"]
        expected += ["no 'spec'", "of ranks 5, this is of ranks 2", "'0.bias' with the shape (7,), the model with (60,)"]
        self.assertEqual(len(texts), len(expected))
        for text, words in zip(texts, expected):
            self.assertIn(words, text)
        with self.assertRaisesRegex(TypeError, r"DistributedDataParallel or fully_shard\(\)"):
            tacit.torch.compress(model_of(), "onebit+ef")

    def test_nan_is_everybodys(self):
        by_rank = processes(3, stumble)
        self.assertRegex(by_rank[0][0], "^ERR_VALUE rank 1: slot")
        for text, same, goes_on in by_rank.values():
            self.assertEqual(text, by_rank[0][0])
            self.assertTrue(same, "memory has changed")
            self.assertTrue(goes_on, "the training does not go on as it should")

    @unittest.skipUnless(hasattr(DistributedDataParallel, "_update_process_group"), "this DDP does not go on by itself")
    def test_broken_off(self):
        """What is left of a backward pass that did not come to its end is forgotten by the next."""
        for goes_on, layout, expected in processes(2, break_off).values():
            self.assertTrue(goes_on, "the training does not go on as it should")
            self.assertEqual(layout, expected)

    def test_resume(self):
        with tempfile.TemporaryDirectory() as folder:
            for spec in ("onebit:block=64+ef", "topk:ratio=0.1+ef"):
                with self.subTest(spec=spec):
                    for whole, again in processes(3, resume, folder, spec).values():
                        self.assertTrue(whole == again, "parameters differ")

    def test_rebuilt_buckets(self):
        for kept, rebuilt in processes(2, rebuild).values():
            self.assertTrue(kept)
            self.assertGreater(rebuilt, 0)


if __name__ == "__main__":
    unittest.main()
