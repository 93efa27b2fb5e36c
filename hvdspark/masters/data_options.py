"""The options of every master that are about data: how rows come to the ranks."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import field_validator, model_validator

from hvdspark.config import Configuration
from hvdspark.data import Repartition, RepartitionStrategy, Source
from hvdspark.data.repartition import AnyRepartitioner
from hvdspark.errors import ConfigurationError
from hvdspark.masters.layout import STORAGE_LEVELS, Layout
from hvdspark.masters.staging import StagedData, handed_over, staged
from hvdspark_launch import Launcher

__all__ = ["DataOptions"]


class DataOptions(Configuration, abc.ABC):
    """How rows come to the ranks. Abstract.

    Parameters
    ----------
    rdd_training_approach : {"export", "direct"}
        "export": rows are staged as Parquet before the ranks start; the order depends on the seed alone. "direct": each
        rank reads a partition of its own in the barrier stage, spills it to a file of its host and trains on that in
        all epochs; the order depends on the partitions too. See docs/data.md for when to use which.
    export_directory : str, optional
        Path or URL under which data are staged. They stay there, and a later fit on the same data, columns and options
        in the same session uses them again. None: in the run directory, from which they are removed after the fit. What
        Spark reads from anything but files (JDBC, say) may change unnoticed: give each state of it a directory.
    storage_level : str, optional
        Name of a pyspark StorageLevel, as "MEMORY_AND_DISK": what Spark holds for the length of the fit, so that it is
        not computed again: an RDD, or what "direct" takes from a DataFrame. An RDD that is persisted already stays so.
    repartitioner : Repartitioner, optional
        Gives an RDD its partitions. It is told `batch_size_per_worker` as the least number of objects; whole partitions
        go to the ranks. None: `repartition_strategy`.
    repartition : {"always", "never", "num_partitions_workers_differs"}, optional
        When rows are dealt out anew. None: always under "direct", never under "export".
    shuffle : bool
        Train on the examples in another order in each epoch; False: in the order in which they are stored, always.
    drop_last : bool
        Leave out the examples at the end of an epoch's order that fill no whole step of all ranks, fewer than
        `batch_size_per_worker` times the ranks: for modules that need more than one row a batch, as batch normalisation
        does. The result says how many. Validation data are never left out. Under "direct" each rank's rows are
        spread evenly over all steps, and none is ragged: it is refused there.
    repartition_strategy : {"balanced", "approximate_balanced", "spark_default"}, optional
        How the objects of an RDD are dealt out. None: balanced, with exact counts.
    """

    rdd_training_approach: Literal["export", "direct"] = "export"
    export_directory: str | None = None
    shuffle: bool = True
    drop_last: bool = False
    storage_level: str | None = None
    repartitioner: AnyRepartitioner | None = None
    repartition: Repartition | None = None
    repartition_strategy: RepartitionStrategy | None = None

    @field_validator("storage_level")
    @classmethod
    def _check_storage_level(cls, value: str | None) -> str | None:
        if value is not None and value not in STORAGE_LEVELS:
            raise ValueError(f"one of {', '.join(STORAGE_LEVELS)} is needed")
        return value

    @model_validator(mode="after")
    def _check_data_options(self) -> Self:
        if self.rdd_training_approach == "direct" and self.export_directory is not None:
            raise ValueError('export_directory cannot act with rdd_training_approach="direct": leave it out')
        if self.rdd_training_approach == "direct" and self.drop_last:
            raise ValueError('drop_last cannot act with rdd_training_approach="direct", where no step is ragged')
        if self.repartitioner is not None and self.repartition_strategy is not None:
            raise ValueError("repartitioner and repartition_strategy both say how rows are dealt out: leave one out")
        for name in ("repartitioner", "repartition_strategy"):
            if self.repartition is Repartition.NEVER and getattr(self, name) is not None:
                raise ValueError(f'{name} cannot act with repartition="never": leave one out')
        return self

    def _layout(self, batch_size: int) -> Layout:
        return Layout(
            self.rdd_training_approach == "direct",
            batch_size,
            self.storage_level,
            self.repartitioner,
            self.repartition,
            self.repartition_strategy,
        )

    def _check_rows(self, launcher: Launcher, train: Source, batch_size: int) -> None:
        """Refuse what cannot act on these data, or with this launcher (ConfigurationError)."""
        if self.rdd_training_approach == "direct" and not launcher.takes_rows:
            raise ConfigurationError(
                f'rdd_training_approach="direct" cannot act with {type(launcher).__name__}, whose ranks are no Spark '
                'tasks and have no partition: use launcher="barrier", or rdd_training_approach="export"'
            )
        self._layout(batch_size).check(train)

    @contextlib.contextmanager
    def _rows(
        self, train: Source, validation: Source | None, directory: str, num_workers: int, batch_size: int
    ) -> Iterator[StagedData]:
        """Bring the data of a fit where the ranks read them, for the length of a block."""
        layout = self._layout(batch_size)
        with layout.of_rdd(train, num_workers) as source:
            if self.rdd_training_approach == "direct":
                way = handed_over(source, validation, directory, num_workers, layout)
            else:
                way = staged(source, validation, directory, self.export_directory)
            with way as data:
                yield data
