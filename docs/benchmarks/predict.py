"""Rows a second of predict on Spark, beside a plain torch loop over the rows in memory and pyspark's predict_batch_udf.

::

    python docs/benchmarks/predict.py                          # 100,000 rows; some minutes
    python docs/benchmarks/predict.py --rows 1000000 --rounds 1

Rows are 784 float32 in an array column of a Parquet table on disk; the network is that of docs/examples/mnist.py. On
Spark (`local[2]`) all columns, with what is predicted, go to a sink that drops them. The loop has the rows in memory.
It gets all cores, and one thread in a turn of its own; its threads sleep while they wait for each other, for where
other work runs, waiting threads would take the cores from those that they wait for. All have the same batch size, and
run in turn in one process. A contestant's figure is its median; a ratio is the median of the ratios within a round.
CPU seconds are those of this process and of all below it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import ArrayType, FloatType

from hvdspark import Network, SparkMultiLayer

WIDTH = 784
CHUNK = 25_000  # rows that are made at a time
OURS, UDF, LOOP, SINGLE = "predict", "predict_batch_udf", "torch loop", "torch loop, one thread"


def write(folder: pathlib.Path, rows: int) -> torch.Tensor:
    """Write the table, four files with row groups of 5,000, and return its rows, `[rows, 784] float32`."""
    generator = np.random.default_rng(0)
    x = np.empty((rows, WIDTH), np.float32)
    for start in range(0, rows, CHUNK):
        generator.random(out=x[start : start + CHUNK], dtype=np.float32)
    for number, part in enumerate(np.array_split(x, 4)):
        offsets = np.arange(0, part.size + 1, WIDTH, dtype=np.int64)
        lists = pa.LargeListArray.from_arrays(offsets, part.reshape(-1)).cast(pa.list_(pa.float32()))
        table = pa.table({"id": np.arange(len(part)), "pixels": lists})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=5000, use_dictionary=False)
    return torch.from_numpy(x)


def make_network() -> Network:
    """Return the network of docs/examples/mnist.py."""
    torch.manual_seed(1)
    sizes = [WIDTH, 1024, 1024, 10]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    module = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    return Network(module, torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.25))


def loop(module: torch.nn.Module, x: torch.Tensor, batch_size: int, threads: int) -> None:
    """Run a module over rows in memory as anybody would, and keep classes and probabilities."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = []
    with torch.inference_mode():
        for start in range(0, len(x), batch_size):
            probabilities = module(x[start : start + batch_size]).softmax(dim=1)
            found.append((probabilities.argmax(dim=1), probabilities))
    torch.set_num_threads(before)
    assert sum(len(classes) for classes, _ in found) == len(x)


def rival(module: torch.nn.Module, table: DataFrame, batch_size: int) -> DataFrame:
    """Return the table with a column of probabilities by pyspark's own function."""

    def make() -> Callable[[np.ndarray], np.ndarray]:
        def predict(rows: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(rows)).softmax(dim=1).numpy()

        return predict

    column = predict_batch_udf(
        make, return_type=ArrayType(FloatType()), batch_size=batch_size, input_tensor_shapes=[[WIDTH]]
    )
    return table.withColumn("probability", column("pixels"))


def drain(frame: DataFrame) -> None:
    """Compute all columns of all rows, and drop them."""
    frame.write.format("noop").mode("overwrite").save()


def cpu_s(seen: dict[int, float]) -> float:
    """Return the CPU seconds of this process and all below it; `seen` keeps those of processes that have ended."""
    own = psutil.Process()
    for each in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended: idle workers of Spark do
            times = each.cpu_times()
            seen[each.pid] = times.user + times.system
    return sum(seen.values())


def measure(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run all in turn, `rounds` times in alternating order, after a round that does not count; wall and CPU seconds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    seen: dict[int, float] = {}
    for number in range(rounds + 1):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), cpu_s(seen)
            contestants[name]()
            spent = time.perf_counter() - wall, cpu_s(seen) - cpu
            if number:
                found[name].append(spent)
            print(f"  {number} {name}: {spent[0]:.2f} s, {spent[1]:.2f} s of CPU", file=sys.stderr)
    return found


def main() -> None:
    """Make the table, run all in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="rows that go through the network at a time")
    options = parser.parse_args()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    network, size = make_network(), options.batch_size
    module = network.module.eval()
    with tempfile.TemporaryDirectory() as folder:
        x = write(pathlib.Path(folder), options.rows)
        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        table = spark.read.parquet(folder)
        model = SparkMultiLayer(spark, network, features_col="pixels")
        contestants = {
            OURS: lambda: drain(model.predict(table, batch_size=size)),
            UDF: lambda: drain(rival(module, table, size)),
            LOOP: lambda: loop(module, x, size, os.cpu_count() or 1),
            SINGLE: lambda: loop(module, x, size, 1),
        }
        found = measure(contestants, options.rounds)
        spark.stop()
    print(f"{options.rows:,} rows, batches of {size}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, spent in found.items():
        wall, cpu = (statistics.median(each[i] for each in spent) for i in (0, 1))
        figures = f"{options.rows / wall:9,.0f} rows/s {cpu / options.rows * 1e6:7.1f} CPU us a row"
        ratios = [statistics.median(b[i] / a[i] for a, b in zip(found[OURS], spent, strict=True)) for i in (0, 1)]
        print(f"{name:24}{figures}; predict is {ratios[0]:.2f} times as fast by wall clock, {ratios[1]:.2f} by CPU")


if __name__ == "__main__":
    main()
