#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""training.c with mpi4py and numpy: gradients are fresh arrays in every step. Arguments: the data; width; steps; seed."""
import sys

import numpy as np
from mpi4py import MPI

data, width, steps, seed = sys.argv[1], *map(int, sys.argv[2:5])
HIDDEN, BATCH, RATE, MOMENTUM = 3, 8, 0.02, 0.9
world = MPI.COMM_WORLD


def forward(model, x):
    """What goes into each layer, and the scores."""
    inputs = [x]
    for weight, bias in model[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
    return inputs, inputs[-1] @ model[-1][0] + model[-1][1]


def losses(scores, classes):
    """Of each image; and their gradient by the scores."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(classes))
    loss = -np.log(np.maximum(shares[rows, classes], 1e-30))
    shares[rows, classes] -= 1
    return loss, shares


def gradients(model, x, classes):
    """The mean loss; and its gradient, for each layer's weight and bias, the last layer first."""
    inputs, scores = forward(model, x)
    loss, deltas = losses(scores, classes)
    deltas /= len(classes)
    for i in reversed(range(len(model))):
        yield i, 0, inputs[i].T @ deltas
        yield i, 1, deltas.sum(axis=0)
        deltas = deltas @ model[i][0].T * (inputs[i] > 0)
    yield None, None, np.array([loss.mean()], np.float32)


def main():
    lines = np.random.default_rng(1).permutation(np.loadtxt(data, np.float32, delimiter=","))
    images, classes = lines[:, :-1] / 8 - 1, lines[:, -1].astype(int)
    tests = len(images) // 5
    random = np.random.default_rng(seed)
    widths = [images.shape[1], *HIDDEN * [width], 10]
    model = [[random.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32), np.zeros(b, np.float32)]
             for a, b in zip(widths, widths[1:])]
    velocity = [[np.zeros_like(values) for values in layer] for layer in model]
    random = np.random.default_rng([seed, world.rank])
    for step in range(steps):
        chosen = random.integers(tests, len(images), BATCH)
        rate = RATE * (1 - step / steps)
        for i, k, gradient in list(gradients(model, images[chosen], classes[chosen])):
            world.Allreduce(MPI.IN_PLACE, gradient, MPI.SUM)
            if i is not None:
                velocity[i][k] = MOMENTUM * velocity[i][k] + gradient / world.size
                model[i][k] -= rate * velocity[i][k]
    loss = losses(forward(model, images[:tests])[1], classes[:tests])[0].mean()
    equal = world.allreduce(loss, MPI.MAX) == world.allreduce(loss, MPI.MIN)
    if world.rank == 0:
        print(f"of test {loss:.5f}")
        print("models are equal" if equal else "models differ")


main()
