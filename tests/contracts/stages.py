"""Stages of pyspark.ml around the small network of `contracts.table`."""

import functools

import torch

from contracts.table import CLASSES, WIDTH, make_master, make_network
from hvdspark import Network
from hvdspark.ml import NetworkEstimator, NetworkModel

NAMES = [f"x{i}" for i in range(WIDTH)]


def make_estimator(network=None, master=None, **params):
    master = master or make_master(num_workers=1)  # one rank, for speed: how ranks agree is tested elsewhere
    return NetworkEstimator(network=network or make_network(), training_master=master, **params)


def make_model(network=None, **options):
    return NetworkModel(network or make_network(), WIDTH, CLASSES, **options)


def regression():
    return Network(torch.nn.Linear(WIDTH, 1), torch.nn.MSELoss(), functools.partial(torch.optim.SGD, lr=0.1))


def weights(network):
    return torch.nn.utils.parameters_to_vector(network.module.parameters()).detach().numpy().copy()
