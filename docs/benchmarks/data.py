"""Rows a second into a rank, beside pyarrow reading the same rows and torch's DataLoader over them in memory.

::

    python docs/benchmarks/data.py         # some minutes; one thread each, all in turn

Rows are 784 float32 and an int64 label. A contestant's figure is its median; a ratio is the median of the ratios within
a round. CPU seconds are those of the whole process, with all its threads.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from hvdspark.data import Batches, EpochPlan, Manifest, StagedRowGroups
from hvdspark.data.fields import Field
from hvdspark.data.manifest import StagedFile
from hvdspark.data.parts import write_parts
from hvdspark.data.rows import Rows

WIDTH = 784
SIZES = (2, 4)  # ranks of a host, of which each decodes all row groups


def stage(directory: str, x: np.ndarray, y: np.ndarray) -> Manifest:
    """Stage the rows as a Spark task does, in two files."""
    fields = (Field("feature", 0, "x", "float32", (WIDTH,)), Field("label", 0, "y", "int64", ()))
    files = []
    for partition, (features, labels) in enumerate(zip(np.array_split(x, 2), np.array_split(y, 2), strict=True)):
        (part,) = write_parts([Rows(len(labels), fields, (features, labels))], [directory], partition, 256)
        files.append(StagedFile(part.file, part.rows_per_group, part.num_bytes, part.checksum))
    manifest = Manifest(fields, tuple(files))
    manifest.write(directory)
    return manifest


def write_rivals(directory: pathlib.Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write the rows as anybody would: one Parquet file with a column of lists, uncompressed, and one Arrow file."""
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), WIDTH)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), type=kind), "y": y})
    pq.write_table(table, directory / "lists.parquet", compression="none", use_dictionary=False, row_group_size=256)
    with pa.ipc.new_file(directory / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=256)


def count(batches: Iterable[object]) -> None:
    """Go through batches."""
    for _ in batches:
        pass


def read_arrow(path: pathlib.Path) -> None:
    """Read an Arrow file's batches, not memory-mapped."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            file.get_batch(number)


def read_groups(paths: list[str], batch_rows: int) -> None:
    """Let pyarrow iterate over Parquet files."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            count(file.iter_batches(batch_rows, use_threads=False))


def contestants(directory: pathlib.Path, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name: each goes through all rows once."""
    manifest = stage(str(directory / "staged"), x, y)
    write_rivals(directory, x, y)
    groups = StagedRowGroups(str(directory / "staged"), manifest)
    memory = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    staged = [str(directory / "staged" / file.name) for file in manifest.files]
    found: dict[str, Callable[[], object]] = {
        "pyarrow read_table, staged files": lambda: [pq.read_table(path, use_threads=False) for path in staged],
        "pyarrow iter_batches(256), staged files": lambda: read_groups(staged, 256),
        "pyarrow read_table, Parquet of lists": lambda: pq.read_table(directory / "lists.parquet", use_threads=False),
        "pyarrow iter_batches(256), Parquet of lists": lambda: read_groups([str(directory / "lists.parquet")], 256),
        "pyarrow, Arrow file": lambda: read_arrow(directory / "rows.arrow"),
    }
    for batch in (32, 256):
        for prefetch in (0, 2):
            found[f"Batches, batch {batch}, prefetch {prefetch}"] = lambda batch=batch, prefetch=prefetch: count(  # type: ignore[misc]
                Batches(groups, plan(manifest, batch), 0, prefetch=prefetch)
            )
        found[f"DataLoader, batch {batch}"] = lambda batch=batch: count(  # type: ignore[misc]
            DataLoader(memory, batch_size=batch, shuffle=True)
        )
        found[f"DataLoader, batch {batch}, batched sampler"] = lambda batch=batch: count(  # type: ignore[misc]
            DataLoader(memory, sampler=BatchSampler(RandomSampler(memory), batch, drop_last=False), batch_size=None)
        )
    for size in SIZES:
        found[one_of(size)] = lambda size=size: count(  # type: ignore[misc]
            Batches(groups, plan(manifest, 32, size), 0, prefetch=0)
        )
    return found


def one_of(size: int) -> str:
    """Name the contestant that is one of several ranks."""
    return f"Batches, batch 32, prefetch 0, one of {size} ranks"


def plan(manifest: Manifest, batch: int, size: int = 1) -> EpochPlan:
    """Plan an epoch."""
    return EpochPlan(manifest.rows_per_group, size, batch, seed=0, epoch=0)


def waiting(groups: StagedRowGroups, steps: int) -> tuple[float, float]:
    """Train 784-1024-10 by SGD with batches of 32; return the share of the time that waits for data, and ms a step."""
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 10))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    batches: Any = iter(Batches(groups, EpochPlan(groups.rows_per_group, 1, 32, seed=0, epoch=0), 0, prefetch=2))
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - start
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(batch.features), batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()
    total = time.perf_counter() - begin
    batches.close()
    return waited / total, total / steps * 1000


def main() -> None:
    """Measure in turn, round after round, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    generator = np.random.default_rng(0)
    x, y = generator.random((options.rows, WIDTH), np.float32), generator.integers(0, 10, options.rows)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        (directory / "staged").mkdir()
        runs = contestants(directory, x, y)
        wall: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):
            for name, run in runs.items():
                begin, cpu_begin = time.perf_counter(), time.process_time()
                run()
                if number:  # the first round warms up, and compares checksums
                    wall[name].append(time.perf_counter() - begin)
                    cpu[name].append(time.process_time() - cpu_begin)
        groups = StagedRowGroups(str(directory / "staged"), Manifest.read(directory / "staged"))
        shares = [waiting(groups, options.rows // 32) for _ in range(options.rounds)]
    print(f"{options.rows} rows, {options.rounds} rounds, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    print("| way | rows a second | CPU us a row |\n|---|---|---|")
    own = dict.fromkeys(runs, options.rows) | {one_of(size): options.rows // size for size in SIZES}
    for name, rows in own.items():
        us = statistics.median(cpu[name]) / rows * 1e6
        print(f"| {name} | {rows / statistics.median(wall[name]):,.0f} | {us:.2f} |")
    ours = [name for name, rows in own.items() if name.startswith("Batches") and rows == options.rows]
    print("\nratios of speed: wall clock, and CPU seconds\n| | " + " | ".join(ours) + " |")
    print("|---" * (len(ours) + 1) + "|")
    for rival in (name for name in runs if not name.startswith("Batches")):
        cells = [f"{ratio(wall, rival, name):.2f}, {ratio(cpu, rival, name):.2f}" for name in ours]
        print(f"| {rival} | " + " | ".join(cells) + " |")
    share, step_ms = statistics.median(s for s, _ in shares), statistics.median(ms for _, ms in shares)
    print(f"\nwaiting for data: {share:.1%} of a step of {step_ms:.2f} ms")


def ratio(seconds: dict[str, list[float]], rival: str, ours: str) -> float:
    """Return the median over rounds of how many times as fast we are."""
    return statistics.median(a / b for a, b in zip(seconds[rival], seconds[ours], strict=True))


if __name__ == "__main__":
    main()
