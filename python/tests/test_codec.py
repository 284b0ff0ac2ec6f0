# SPDX-License-Identifier: Apache-2.0
"""Codecs and bundles on tensors, in one process."""

import unittest

import torch

from tacit import Status, TacitError, __version__
from tacit.torch import Bundle, Codec

BLOCKWISE = ["none", "fp16", "onebit:block=64+ef", "qsgd:bits=4+ef", "rotq:bits=4+ef"]
WHOLE = ["topk:ratio=0.1+ef", "randk:ratio=0.1+ef"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def exchange(bundles, step, tensors):
    """A step of one bundle a rank. Returns what each finish() raised."""
    ranks = len(bundles)
    sent = [torch.empty(sum(bundle.sends), dtype=torch.uint8) for bundle in bundles]
    own = [torch.empty(bundle.gathers, dtype=torch.uint8) for bundle in bundles]
    for rank, bundle in enumerate(bundles):
        bundle.encode(step, tensors[rank], sent[rank])
    pieces = [message.split(bundle.sends) for message, bundle in zip(sent, bundles)]
    for rank, bundle in enumerate(bundles):
        bundle.reduce(torch.cat([pieces[other][rank] for other in range(ranks)]), own[rank])
    errors = []
    for rank, bundle in enumerate(bundles):
        try:
            bundle.finish(torch.cat(own), tensors[rank])
            errors.append(None)
        except TacitError as error:
            errors.append(error)
    return errors


class CodecTest(unittest.TestCase):
    def test_version(self):
        self.assertRegex(__version__, r"^\d+\.\d+\.\d+$")

    def test_round_trip(self):
        for spec in BLOCKWISE + WHOLE:
            for dtype in DTYPES:
                with self.subTest(spec=spec, dtype=dtype):
                    codec = Codec("w", (30, 40), spec, dtype=dtype)
                    tensor = torch.randn(30, 40).to(dtype)
                    frame = codec.encode(0, tensor)
                    self.assertLessEqual(frame.numel(), codec.capacity())
                    out = torch.full_like(tensor, 7)
                    codec.decode(0, frame, out)
                    total = torch.ones(30, 40)
                    codec.decode_add(0, frame, total)
                    torch.testing.assert_close((total - 1).to(dtype), out, rtol=1e-2, atol=1e-2)
                    if spec == "none":
                        self.assertTrue(torch.equal(out, tensor))

    def test_nothing_is_lost(self):
        for spec in ["onebit:block=64+ef", "topk:ratio=0.1+ef"]:
            codec, out, total = Codec("w", (1000,), spec), torch.empty(1000), torch.zeros(1000)
            tensor = torch.randn(1000)
            for step in range(200):
                codec.decode(step, codec.encode(step, tensor), out)
                total += out
            self.assertLess((total / 200 - tensor).norm() / tensor.norm(), 0.1, spec)

    def test_state(self):
        codec, other, tensor = Codec("w", (1000,), "onebit+ef"), Codec("w", (1000,), "onebit+ef"), torch.randn(1000)
        codec.encode(0, tensor)
        other.load(codec.save())
        self.assertTrue(torch.equal(codec.encode(1, tensor), other.encode(1, tensor)))
        other.reset()
        self.assertFalse(torch.equal(codec.encode(2, tensor), other.encode(2, tensor)))
        with self.assertRaisesRegex(TacitError, "damaged"):
            other.load(codec.save()[:-1])

    def test_refusals(self):
        with self.assertRaises(TacitError) as caught:
            Codec("w", (10,), "onebitt")
        self.assertEqual(caught.exception.status, Status.ERR_SPEC)
        with self.assertRaisesRegex(TypeError, "float64"):
            Codec("w", (10,), "none", dtype=torch.float64)
        codec = Codec("w", (10,), "none")
        with self.assertRaisesRegex(ValueError, "10 elements"):
            codec.encode(0, torch.zeros(11))
        with self.assertRaisesRegex(ValueError, "contiguous"):
            codec.encode(0, torch.zeros(2, 10)[:, ::2].t())
        with self.assertRaises(TacitError) as caught:
            codec.encode(0, torch.full((10,), torch.nan))
        self.assertEqual(caught.exception.status, Status.ERR_VALUE)


class BundleTest(unittest.TestCase):
    def bundles(self, ranks, **options):
        specs = BLOCKWISE + WHOLE
        codecs = [
            [Codec(f"{i}", (300 + i,), spec, rank=rank, ranks=ranks, **options) for i, spec in enumerate(specs)]
            for rank in range(ranks)
        ]
        return [Bundle(row) for row in codecs], [[torch.randn(codec.count) for codec in row] for row in codecs]

    def test_mean(self):
        for ranks in (1, 2, 3):
            bundles, tensors = self.bundles(ranks)
            mean = torch.stack([row[0] for row in tensors]).mean(0)
            self.assertEqual(exchange(bundles, 0, tensors), [None] * ranks)
            torch.testing.assert_close(tensors[0][0], mean)
            for row in tensors:
                self.assertTrue(all(torch.equal(mine, first) for mine, first in zip(row, tensors[0])))

    def test_nan_is_everybodys(self):
        bundles, tensors = self.bundles(3, strict=True)
        before = [[codec.save() for codec in bundle.codecs] for bundle in bundles]
        tensors[1][2][5] = torch.nan
        errors = exchange(bundles, 0, tensors)
        self.assertEqual({error.status for error in errors}, {Status.ERR_VALUE})
        self.assertEqual(len({str(error) for error in errors}), 1)
        self.assertIn("rank 1: slot '2'", str(errors[0]))
        for bundle, saved in zip(bundles, before):
            for codec, state in zip(bundle.codecs, saved):
                self.assertTrue(torch.equal(codec.save(), state))

    def test_refusals(self):
        bundles, tensors = self.bundles(2)
        with self.assertRaisesRegex(ValueError, "bytes are needed"):
            bundles[0].encode(0, tensors[0], torch.empty(3, dtype=torch.uint8))
        with self.assertRaisesRegex(ValueError, "was given 1"):
            bundles[0].encode(0, tensors[0][:1], torch.empty(10000, dtype=torch.uint8))
        bundles[0].encode(0, tensors[0], torch.empty(10000, dtype=torch.uint8))
        with self.assertRaises(TacitError) as caught:
            bundles[0].encode(0, tensors[0], torch.empty(10000, dtype=torch.uint8))
        self.assertEqual(caught.exception.status, Status.ERR_STATE)
        bundles[0].cancel()
        bundles[0].encode(0, tensors[0], torch.empty(10000, dtype=torch.uint8))


if __name__ == "__main__":
    unittest.main()
