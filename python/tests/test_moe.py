# SPDX-License-Identifier: Apache-2.0
"""Exchanges of a mixture's tokens, on processes over gloo, against the same mixture in one process."""

import gc
import unittest
import weakref

import torch
from test_ddp import processes

import tacit
import tacit.torch
from tacit.torch import TokenExchange

DIMENSION = 12

# ---- A mixture ----


def experts_of(count, numbers=None):
    """Those of all ranks, or of some."""
    experts = []
    for number in range(count):
        torch.manual_seed(100 + number)
        experts.append(torch.nn.Sequential(torch.nn.Linear(DIMENSION, 8), torch.nn.Tanh(), torch.nn.Linear(8, DIMENSION)))
    return torch.nn.ModuleList(experts if numbers is None else [experts[number] for number in numbers])


class Tokens:
    """A rank's tokens, where they go, weights, and the gradients of their outputs."""

    def __init__(self, rank, count, experts, choices, seed, dtype=torch.float32):
        generator = torch.Generator().manual_seed(10 * seed + rank)
        self.tokens = torch.randn(count, DIMENSION, generator=generator).to(dtype).requires_grad_()
        scores = torch.rand(count, experts, generator=generator)
        self.experts = scores.argsort(1)[:, :choices].contiguous()
        self.experts[torch.rand(self.experts.shape, generator=generator) < 0.2] = -1
        self.weights = torch.rand(count, choices, generator=generator).requires_grad_()
        self.gradients = torch.randn(count, DIMENSION, generator=generator).to(dtype)


def plain(experts, mine):
    """A mixture's outputs, all of it here."""
    outputs = torch.zeros(mine.tokens.shape)
    for number, expert in enumerate(experts):
        for choice in range(mine.experts.shape[1]):
            here = (mine.experts[:, choice] == number).float() * mine.weights[:, choice]
            outputs = outputs + here.unsqueeze(1) * expert(mine.tokens.float())
    return outputs


def replies_of(experts, batch):
    if len(experts) == 0:
        return torch.zeros(0, DIMENSION)  # of which the graph knows nothing
    return torch.cat([expert(rows) for expert, rows in zip(experts, batch.rows.split(batch.counts))])


def gradients_of(module):
    return torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()] or [torch.zeros(0)])


def distance(a, b):
    """Relative to b's norm."""
    return float((a.detach().float() - b.detach()).norm() / (b.detach().norm() + 1e-30))


# ---- As if nothing were exchanged ----

# By ranks: experts, choices, and tokens of each rank in each of several passes.
MIXTURES = {
    1: [(3, 2, [[7], [0]])],
    2: [(5, 2, [[9, 4], [1, 0], [0, 0]]), (1, 1, [[6, 3]])],  # in the second, rank 0 has no expert
    3: [(7, 3, [[5, 0, 11], [0, 8, 2]]), (2, 2, [[4, 6, 5]])],
}

# How far results may be off, and bytes relative to those of float32 rows.
SPECS = (
    ("bf16", torch.float32, 0.01, 0.5),
    ("fp8", torch.float32, 0.1, 0.25),
    ("lsh:hashes=32", torch.float32, 2e-6, 1),  # no two are alike
    ("none", torch.bfloat16, 0.03, 0.5),
    ("none", torch.float16, 0.003, 0.5),
)


def several(rank, ranks, body, arguments):
    return [body(rank, ranks, *each) for each in arguments]


def equal(rank, ranks, experts, choices, counts, spec="none", dtype=torch.float32):
    """How far outputs, gradients of tokens, of weights, and of this rank's experts are from those of the mixture in one process; and
    the exchange's counters. The passes are alive at the same time, and go backward at once."""
    exchange = TokenExchange("layer", DIMENSION, experts, 12, choices, spec=spec, dtype=dtype)
    own, everything = experts_of(experts, exchange.local_experts).to(dtype), experts_of(experts)
    mine, theirs, outputs = [], [], []
    for seed, by_rank in enumerate(counts):
        mine.append(Tokens(rank, by_rank[rank], experts, choices, seed, dtype))
        theirs.append([Tokens(other, count, experts, choices, seed, dtype) for other, count in enumerate(by_rank)])
    batches = [exchange.dispatch(one.tokens, one.experts) for one in mine]
    for one, batch in zip(mine, batches):
        outputs.append(exchange.combine(batch, replies_of(own, batch), one.weights))
    torch.autograd.backward(outputs, [one.gradients for one in mine])
    expected = [[plain(everything, one) for one in ranks_tokens] for ranks_tokens in theirs]
    torch.autograd.backward(sum(expected, []), [one.gradients.float() for by_rank in theirs for one in by_rank])
    far = [0.0]
    for one, by_rank, output, should in zip(mine, theirs, outputs, expected):
        far += [distance(output, should[rank])]
        far += [distance(getattr(one, what).grad, getattr(by_rank[rank], what).grad.float()) for what in ("tokens", "weights")]
    there = torch.nn.ModuleList([everything[number] for number in exchange.local_experts])
    far.append(distance(gradients_of(own), gradients_of(there)))
    return max(far), exchange.counters.wire_bytes, exchange.counters.dense_bytes, exchange.counters.passes


def lone_expert(rank, ranks):
    """All that is trained is one expert, on the last rank: the others go backward, too."""
    exchange, experts = TokenExchange("layer", DIMENSION, 1, 12, 1, spec="none"), experts_of(1)
    everybody = [Tokens(other, 5, 1, 1, 0) for other in range(ranks)]
    mine = everybody[rank]
    batch = exchange.dispatch(mine.tokens.detach(), mine.experts)
    output = exchange.combine(batch, replies_of(experts[: len(batch.counts)], batch), mine.weights.detach())
    output.backward(mine.gradients)
    twin = experts_of(1)
    torch.autograd.backward([plain(twin, one) for one in everybody], [one.gradients for one in everybody])
    far = distance(gradients_of(experts), gradients_of(twin)) if batch.counts else 0.0
    return far, *overflow(exchange, mine)


def overflow(exchange, mine):
    """With room for two tokens of a rank: of how many others outputs are zero, and how many the counters have."""
    small = TokenExchange("small layer", DIMENSION, 1, 12, 1, capacity=2, spec="none")
    mine.experts[:] = 0
    mine.experts[1] = -1
    batch = small.dispatch(mine.tokens, mine.experts)
    output = small.combine(batch, batch.rows.mul_(1), torch.ones_like(mine.weights))
    expected = mine.tokens.detach().clone()
    expected[1] = 0
    expected[3:] = 0
    return torch.equal(output.detach(), expected), small.counters.overflows


# ---- Clusters ----

POINTS = 5


def clustered(rank, ranks):
    """With lsh: what a mixture is whose tokens of one point travel as their mean, by autograd."""
    exchange = TokenExchange("layer", DIMENSION, ranks, 64, 1, spec="lsh:hashes=8")
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(POINTS, DIMENSION, generator=generator)
    kinds = [torch.randint(POINTS, (40 + 8 * other,), generator=generator) for other in range(ranks)]
    noise = [1e-4 * torch.randn(len(kind), DIMENSION, generator=generator) for kind in kinds]
    tokens = [(points[kind] + off).requires_grad_() for kind, off in zip(kinds, noise)]
    weights = [torch.rand(len(kind), 1, generator=generator).requires_grad_() for kind in kinds]
    gradients = [torch.randn(len(kind), DIMENSION, generator=generator) for kind in kinds]
    chosen = [kind % ranks for kind in kinds]

    experts, expected, rows = experts_of(ranks), [], 0
    for other in range(ranks):
        replies = torch.zeros(len(tokens[other]), DIMENSION)
        for kind in range(POINTS):
            members, expert = kinds[other] == kind, kind % ranks
            x = tokens[other][members]
            if other == expert:  # it stays, as it is
                replies[members] = experts[expert](x)
            elif len(x):
                rows += other == rank
                replies[members] = experts[expert](x.mean(0, keepdim=True)) - x.mean(0, keepdim=True) + x
        expected.append(replies * weights[other])
    torch.autograd.backward(expected, gradients)

    mine, gate = tokens[rank].detach().requires_grad_(), weights[rank].detach().requires_grad_()
    own = experts_of(ranks, exchange.local_experts)
    batch = exchange.dispatch(mine, chosen[rank].unsqueeze(1))
    output = exchange.combine(batch, replies_of(own, batch), gate)
    output.backward(gradients[rank])
    far = {
        "outputs": distance(output, expected[rank]),
        "tokens": distance(mine.grad, tokens[rank].grad),
        "weights": distance(gate.grad, weights[rank].grad),
        "experts": distance(gradients_of(own), gradients_of(experts[rank])),
    }
    counters = exchange.counters
    return far, rows, counters.rows, counters.rate, rows / int((chosen[rank] != rank).sum()), counters.residual


# ---- Errors ----


def raised(call):
    try:
        call()
    except tacit.TacitError as error:
        return f"{error.status.name} {error}"
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


def faults(rank, ranks):
    """What is raised where rank 1 alone is wrong, and whether the exchange goes on after each."""
    exchange, experts, texts = TokenExchange("layer", DIMENSION, 4, 12, spec="bf16"), experts_of(4), []
    own = torch.nn.ModuleList([experts[number] for number in exchange.local_experts])

    def step(spoil=lambda mine: None, replies=replies_of, between=lambda mine, batch: None):
        mine = Tokens(rank, 6, 4, 2, 3)
        if rank == 1:
            spoil(mine)
        batch = exchange.dispatch(mine.tokens, mine.experts)
        between(mine, batch)
        output = exchange.combine(batch, (replies if rank == 1 else replies_of)(own, batch), mine.weights)
        output.backward(mine.gradients)
        return distance(output, plain(experts, mine)), mine

    def put(name, value):
        return lambda mine: setattr(mine, name, value(getattr(mine, name)))

    def touch(mine, batch):
        if rank == 1:
            mine.tokens.data.add_(0)  # which autograd does not see
            mine.tokens.detach().add_(1)

    wrong = (
        {"spoil": put("experts", lambda numbers: numbers + 4)},
        {"spoil": put("experts", lambda numbers: numbers + 2**32)},
        {"spoil": put("experts", lambda numbers: numbers.float())},
        {"spoil": put("tokens", lambda tokens: tokens[:, 1:])},
        {"spoil": put("tokens", lambda tokens: tokens.bfloat16())},
        {"spoil": put("tokens", lambda tokens: torch.full_like(tokens, torch.nan))},
        {"spoil": put("weights", lambda weights: weights[1:])},
        {"replies": lambda own, batch: replies_of(own, batch)[1:]},
        {"between": touch},
    )
    for arguments in wrong:
        texts.append(raised(lambda: step(**arguments)))
        texts.append(step()[0] < 0.02)
    return texts


def backward_faults(rank, ranks):
    """NaN in one rank's gradients: the error, what gradients are then, and whether two layers go on."""
    layers = [TokenExchange(f"layer{i}", DIMENSION, 4, 12, spec="bf16") for i in range(2)]
    lax = TokenExchange("lax", DIMENSION, 4, 12, spec="bf16", nonfinite="pass")
    experts = experts_of(4, layers[0].local_experts)

    def step(factor, layers=layers, damage=False):
        mine = Tokens(rank, 6, 4, 2, 3)
        mine.experts = mine.experts.clamp(0)  # the first choice; the second is nowhere
        mine.experts[:, 1] = -1
        x = mine.tokens
        for layer in layers:
            batch = layer.dispatch(x, mine.experts)
            x = layer.combine(batch, replies_of(experts, batch), mine.weights)
        if damage and rank == 1:  # a message that comes to it alone
            trade = layers[1]._trade
            layers[1]._trade = lambda *arguments: trade(*arguments) ^ (arguments[0].dtype == torch.uint8)
        ended = raised(lambda: x.backward(mine.gradients * factor))
        return ended, mine.tokens.grad, raised(lambda: x.sum().backward())

    good, first, again = step(1)
    bad, spoilt, _ = step(torch.nan if rank == 1 else 1)
    after, last, _ = step(1)
    passed, _, _ = step(torch.nan if rank == 1 else 1, [lax])
    damaged, _, _ = step(1, damage=True)
    return (good, after, passed), again, bad, bool(spoilt.isnan().all()), torch.equal(first, last), damaged


def damage(rank, ranks):
    """What is raised where a message of one of the four exchanges comes to rank 1 damaged, and whether the exchange goes on after it."""
    exchange, experts, texts = TokenExchange("layer", DIMENSION, 4, 12, spec="bf16"), experts_of(4), []
    own = torch.nn.ModuleList([experts[number] for number in exchange.local_experts])
    trade = exchange._trade

    def step(damaged=None):
        messages = 0

        def disturbed(sent, *lengths):
            nonlocal messages
            received = trade(sent, *lengths)
            messages += sent.dtype == torch.uint8
            return received ^ 1 if sent.dtype == torch.uint8 and messages - 1 == damaged and rank == 1 else received

        exchange._trade = disturbed
        mine = Tokens(rank, 6, 4, 2, 3)
        batch = exchange.dispatch(mine.tokens, mine.experts)
        output = exchange.combine(batch, replies_of(own, batch), mine.weights)
        output.backward(mine.gradients)
        return distance(output, plain(experts, mine))

    for message in range(4):
        texts.append(raised(lambda: step(message)))
        texts.append(step() < 0.02)
    return texts


def refusals(rank, ranks):
    settings = {"name": "layer", "dimension": DIMENSION, "experts": 4, "tokens": 8}
    wrong = [{"spec": "lhs"}, {"spec": "onebit+ef"}, {"dtype": torch.float64}, {"dimension": -1}, {"choices": 5}]
    wrong += [{"tokens": 8 + rank}, {"nonfinite": "x"}]
    return [raised(lambda: TokenExchange(**{**settings, **one})) for one in wrong]


# ---- Memory ----


def memory(rank, ranks):
    """Passes that live: without a graph, with one that goes backward, with one that does not; and rows that outlive all else."""
    gc.disable()
    exchange, experts = TokenExchange("layer", DIMENSION, ranks, 12), experts_of(ranks)
    own = torch.nn.ModuleList([experts[rank]])
    mine = Tokens(rank, 6, ranks, 2, 3)

    def forward():
        batch = exchange.dispatch(mine.tokens, mine.experts)
        return exchange.combine(batch, replies_of(own, batch), mine.weights)

    lives = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            output = forward()
            lives.append((len(exchange._passes), output.requires_grad))
    output = forward()
    lives.append((len(exchange._passes), output.requires_grad))
    output.backward(mine.gradients)  # the graph has let go, though it is there
    lives.append((len(exchange._passes), output.requires_grad))
    output = forward()
    del output
    lives.append((len(exchange._passes), True))
    batch = exchange.dispatch(mine.tokens, mine.experts)
    rows, copy = batch.rows.detach(), batch.rows.detach().clone()
    gone = weakref.ref(exchange)
    del batch
    lives.append((len(exchange._passes), True))
    del exchange, forward
    same = torch.equal(rows, copy)
    del rows
    return lives, same, gone() is None and cycle_is_freed(rank, ranks)


def cycle_is_freed(rank, ranks):
    """What an error leaves behind, of the exchange too, is found to be garbage in any order."""
    exchange = TokenExchange("layer", DIMENSION, ranks, 12)
    mine, gone = Tokens(rank, 6, ranks, 2, 3), weakref.ref(exchange)
    raised(lambda exchange=exchange: exchange.dispatch(mine.tokens[:, 1:], mine.experts))
    del exchange
    lives = gone() is not None
    gc.collect()
    return lives and gone() is None


class TokenExchangeTest(unittest.TestCase):
    def test_equals_plain(self):
        for ranks, mixtures in MIXTURES.items():
            for results in processes(ranks, several, equal, mixtures).values():
                for (experts, _, counts), (far, _, _, passes) in zip(mixtures, results):
                    with self.subTest(ranks=ranks, experts=experts):
                        self.assertLess(far, 2e-6)
                        self.assertEqual(passes, len(counts))

    def test_lone_expert(self):
        for far, as_expected, overflows in processes(2, lone_expert).values():
            self.assertLess(far, 2e-6)
            self.assertTrue(as_expected)
            self.assertEqual(overflows, 2)

    def test_specs(self):
        by_rank = processes(2, several, equal, [(4, 2, [[12, 10]], spec, dtype) for spec, dtype, *_ in SPECS])
        for i, (spec, dtype, most, ratio) in enumerate(SPECS):
            with self.subTest(spec=spec, dtype=dtype):
                far = max(by_rank[rank][i][0] for rank in by_rank)
                wire, dense = (sum(by_rank[rank][i][what] for rank in by_rank) for what in (1, 2))
                self.assertLess(far, most)
                self.assertTrue(far > most / 20 or most < 1e-5)
                self.assertLess(abs(wire - ratio * dense), 8 * 100)  # a header of each message

    def test_clusters(self):
        for far, rows, sent, rate, expected, residual in processes(2, clustered).values():
            for what, value in far.items():
                self.assertLess(value, 2e-6, what)
            self.assertEqual(sent, rows)
            self.assertEqual(rate, expected)
            self.assertTrue(1e-5 < residual < 1e-3, residual)

    def test_errors_are_everybodys(self):
        by_rank = processes(3, faults)
        expected = ["expert", "expert", "whole numbers, not torch.float32", r"shape \(6, 11\), where torch.float32 of \(6, 12\)"]
        expected += ["torch.bfloat16 of shape", "NaN", r"weights .* \(5, 2\)", "replies", "changed in place"]
        self.assertEqual(len(by_rank[1]), 2 * len(expected))
        for i, words in enumerate(expected):
            self.assertRegex(by_rank[1][2 * i], f"^ERR_{'VALUE' if words == 'NaN' else 'ARGUMENT'} rank 1: moe 'layer'.*{words}")
        for texts in by_rank.values():
            self.assertEqual(texts[::2], by_rank[1][::2])
            self.assertTrue(all(texts[1::2]), texts)

    def test_backward_errors(self):
        for good, again, bad, spoilt, same, damaged in processes(3, backward_faults).values():
            self.assertEqual(good, ("nothing",) * 3)
            self.assertRegex(bad, "^ERR_VALUE rank 1: moe 'layer1'.*combine_backward holds NaN or infinity")
            self.assertTrue(spoilt and same)
            self.assertIn("once", again)
            self.assertRegex(damaged, "^ERR_FRAME moe 'layer1'.* the message of rank 0")

    def test_damage_is_everybodys(self):
        by_rank = processes(3, damage)
        for texts in by_rank.values():
            self.assertEqual(texts, by_rank[1])
            self.assertTrue(all(texts[1::2]), texts)
            for text in texts[::2]:
                self.assertRegex(text, "^ERR_FRAME moe 'layer'.* the message of rank 0")

    def test_refusals(self):
        for texts in processes(2, refusals).values():
            expected = ("lhs", "onebit", "torch.float64", "not -1", "5 choices", "8 on rank 0 and 9", "not 'x'")
            self.assertEqual(len(texts), len(expected))
            for text, words in zip(texts, expected):
                self.assertIn(words, text)

    def test_memory(self):
        for lives, same, gone in processes(2, memory).values():
            self.assertEqual(lives, [(0, False), (0, False), (1, True), (0, True), (0, True), (1, True)])
            self.assertTrue(same and gone)


if __name__ == "__main__":
    unittest.main()
