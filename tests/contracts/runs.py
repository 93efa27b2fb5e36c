"""A small training run without Spark: staged rows, a job, ranks as threads of this process, and what was trained."""

import copy
import dataclasses
import functools
import random

import numpy as np
import pyarrow as pa
import torch

from contracts.table import CLASSES, WIDTH
from contracts.tensors import bits
from hvdspark import FixedThresholdAlgorithm, Network, TrainingHook
from hvdspark.collectives import run_ranks
from hvdspark.data.columns import ColumnField, ColumnPlan
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest, StagedFile
from hvdspark.data.parts import write_parts
from hvdspark.sync import DEFAULT_POST_PROCESSOR
from hvdspark.training import AveragingOptions, Job, SharingOptions, find_checkpoints, work

STEPS, EPOCHS = 6, 3  # of an epoch, by two ranks; the last step of each is ragged
SHARING = SharingOptions(
    threshold_algorithm=FixedThresholdAlgorithm(0.02),
    residual_post_processor=DEFAULT_POST_PROCESSOR,
    encode="updates",
    combine="mean",
    exchange="codec",
    magnitude="threshold",
    threshold_scope="model",
    momentum_masking="auto",
    local_steps=1,
    residual_lookahead=0.0,
    outer_optimizer=None,
    overlap="none",
    topology="auto",
    encoding_debug_mode=False,
)


def sharing(**options):
    return dataclasses.replace(SHARING, **options)


AVERAGING = AveragingOptions(averaging_frequency=4, aggregation_depth=2, save_updater=True, outer_optimizer=None)


def stage_here(directory, count=83):
    """Stage rows with classes, in two files."""
    x = np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)
    plan = ColumnPlan(
        (ColumnField("feature", 0, ("x",), "array", "float32"), ColumnField("label", 0, ("y",), "scalar", "int64"))
    )
    files = []
    for partition, part in enumerate(np.array_split(x, 2)):
        arrays = [pa.array(part.tolist(), pa.list_(pa.float32())), pa.array(part[:, :CLASSES].argmax(1))]
        batch = pa.RecordBatch.from_arrays(arrays, names=["hvdspark_feature_0", "hvdspark_label_0"])
        for result in write_parts(plan.rows([batch]), [str(directory)], partition, 8):
            file = StagedFile(result.file, result.rows_per_group, result.num_bytes, result.checksum)
            files.append(file)
    fields = (Field("feature", 0, "x", "float32", (WIDTH,)), Field("label", 0, "y", "int64", ()))
    Manifest(fields, tuple(files)).write(directory)


def make_network(optimizer=None, *more, **options):
    """A module with statistics of its own beside the weights; `more` goes before its last layer."""
    torch.manual_seed(3)
    module = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), *more, torch.nn.Linear(16, CLASSES)
    )
    optimizer = optimizer or functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Network(module, torch.nn.CrossEntropyLoss(), optimizer, **options)


class Noise(torch.nn.Module):
    """Draws from all generators that a module may draw from; not for ranks that are threads, which share them."""

    def forward(self, x):
        x = torch.nn.functional.dropout(x, 0.3)
        return x * (1 + 0.1 * random.random()) + 0.1 * float(np.random.random())  # noqa: NPY002


def make_job(staged, run_directory, **options):
    return Job(
        **{
            "network": make_network(),
            "train_directory": None if staged is None else str(staged),
            "validation_directory": None,
            "run_directory": str(run_directory),
            "epochs": EPOCHS,
            "batch_size": 7,
            "sharing": SHARING,
            "seed": 5,
            "prefetch": 0,
            "transport": "threads",
            "device": "cpu",
            "max_local_ranks": None,
            **options,
        }
    )


class Interrupting(TrainingHook):
    """Ends the training on the last rank before its update in a step, counted over all epochs."""

    def __init__(self, step):
        self.step = step

    def pre_update(self, moment):
        if moment.rank == moment.size - 1 and moment.step == self.step:
            raise InterruptedError(f"step {self.step}")


def run_here(job, size=2, **options):
    """Train on ranks that are threads; return the state of each rank's module, and the reports."""

    def rank(world):
        own = dataclasses.replace(job, network=copy.deepcopy(job.network), hooks=copy.deepcopy(job.hooks))
        del world  # `work` opens it itself
        report = work(own)
        return {name: bits(value) for name, value in own.network.module.state_dict().items()}, report

    return run_ranks(rank, size, **options)


def resumed(job, **changes):
    """Return the same job without its interruption, on from its last checkpoint."""
    found = find_checkpoints(job.run_directory)
    return dataclasses.replace(
        job, **{"hooks": (), "network": make_network_like(job.network), "resume": found, **changes}
    )


def make_network_like(network):
    """A network of the same parts whose weights are others: what is not restored shows."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.add_(1.0)
    return other
