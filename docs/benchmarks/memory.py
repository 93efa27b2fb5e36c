"""A million rows of 100 float32 columns, staged and trained on for an epoch on local[2]: peak memory by process.

::

    python docs/benchmarks/memory.py                         # two ranks, batches of 256, 100-64-2 with SGD
    python docs/benchmarks/memory.py --approach direct       # each rank spills its own partition and maps it

The peak of a process is its own high-water mark of resident memory (VmHWM of Linux), looked up five times a second, so
what a process takes in its last fifth of a second can be missed. Shared pages count in each process. Own memory
(RssAnon) leaves out the pages of files, which the system takes back when it needs room.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile
import threading
import time
import tracemalloc
from typing import Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.sql import SparkSession

from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.data import EpochPlan

CHUNK = 50_000  # rows that are made at a time


class Peaks:
    """Watches this process and all below it; what each one's high-water mark was."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, int], tuple[int, int]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._end.wait(0.2):
            for process in [own, *own.children(recursive=True)]:
                try:
                    name = "driver" if process == own else process.name()
                    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                except (psutil.NoSuchProcess, OSError):
                    continue  # it has ended
                facts = dict(line.split(":", 1) for line in status.splitlines())
                if "VmHWM" not in facts:
                    continue  # it ends
                key = name, process.pid
                resident, own_memory = (int(facts[fact].split()[0]) * 1024 for fact in ("VmHWM", "RssAnon"))
                before = self._bytes.get(key, (0, 0))
                self._bytes[key] = max(before[0], resident), max(before[1], own_memory)

    def largest(self) -> dict[str, tuple[int, int]]:
        """Return the largest marks, all and own, of the driver, the JVM, and other processes of Python, in bytes."""
        found = {"driver": (0, 0), "JVM": (0, 0), "workers": (0, 0)}
        for (name, _), marks in self._bytes.items():
            kind = {"driver": "driver", "java": "JVM"}.get(name, "workers")
            found[kind] = max(found[kind][0], marks[0]), max(found[kind][1], marks[1])
        return found


def write(path: pathlib.Path, rows: int, columns: int) -> None:
    """Write a Parquet table of float columns and a label, in chunks."""
    generator = np.random.default_rng(0)
    names = [f"c{number}" for number in range(columns)]
    schema = pa.schema([*((name, pa.float32()) for name in names), ("label", pa.int32())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, CHUNK):
            x = generator.standard_normal((columns, min(CHUNK, rows - start)), np.float32)
            writer.write_table(pa.table([*x, (x[0] > x[1]).astype(np.int32)], schema=schema))


def plan_bytes(rows: int) -> int:
    """Return the most that a plan of so many rows in groups of 256 takes, an epoch's first block included."""
    tracemalloc.start()
    next(iter(EpochPlan((256,) * -(-rows // 256), 2, 256, seed=0, epoch=0).blocks(0)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    """Make the table in a process of its own, fit, and print what each kind of process took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--approach", choices=["export", "direct"], default="export")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "table.parquet"
        write(path, options.rows, options.columns)
        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        layers = torch.nn.Linear(options.columns, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
        sgd = functools.partial(torch.optim.SGD, lr=0.05)
        network = Network(torch.nn.Sequential(*layers), torch.nn.CrossEntropyLoss(), sgd)
        master = SharedTrainingMaster(
            batch_size_per_worker=256, num_workers=2, rng_seed=1, rdd_training_approach=options.approach
        )
        columns = [f"c{number}" for number in range(options.columns)]
        model = SparkMultiLayer(spark, network, master, features_col=columns, label_col="label")
        begin = time.perf_counter()
        with Peaks() as peaks:
            result = model.fit(spark.read.parquet(str(path)), epochs=options.epochs)
        seconds = time.perf_counter() - begin
        spark.stop()
    examples = sum(rank.examples for rank in result.stats.ranks)
    print(f"{examples:,} rows x {options.columns} in {seconds:.0f} s ({result.stats.staging_s:.0f} s staging)")
    for kind, (mark, own) in peaks.largest().items():
        print(f"{kind}: {mark / 2**20:,.0f} MiB at most in a process, {own / 2**20:,.0f} of them its own")
    small, large = plan_bytes(options.rows) / 2**20, plan_bytes(1000 * options.rows) / 2**20
    print(f"a plan and its first block: {small:.1f} MiB; of 1,000 times the rows: {large:,.1f} MiB")
    load_s = max(rank.seconds["load"] for rank in result.stats.ranks)
    print(f"waiting for data: {load_s:.1f} of {result.stats.training_s:.1f} s of training")


if __name__ == "__main__":
    main()
