"""A small table with classes, a network and a master, for tests on Spark."""

import functools

import numpy as np
import torch

from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer

WIDTH, CLASSES = 6, 3


def make_network(loss=None, outputs=CLASSES, lr=0.1, **options):
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 24), torch.nn.ReLU(), torch.nn.Linear(24, outputs))
    sgd = functools.partial(torch.optim.SGD, lr=lr, momentum=0.9)
    return Network(module, loss or torch.nn.CrossEntropyLoss(), sgd, **options)


def make_master(**options):
    return SharedTrainingMaster(**{"batch_size_per_worker": 16, "num_workers": 2, "rng_seed": 5, **options})


def make_rows(count=400):
    x = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
    return [(i, row.tolist(), int(np.argmax(row[:CLASSES]))) for i, row in enumerate(x)]


def fit(spark, data, network=None, master=None, *, epochs=1, **columns):
    model = SparkMultiLayer(spark, network or make_network(), master or make_master(), **columns)
    return model.fit(data, epochs=epochs)
