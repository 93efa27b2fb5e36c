"""From tables to batches: what columns mean, staged files, who reads which rows.

Batches are loaded on first use: they need torch, which a Spark task that only stages rows should not wait for.
"""

from typing import TYPE_CHECKING, Any

from hvdspark.data.columns import ColumnPlan, ColumnReader, Table
from hvdspark.data.dataset import DataSet
from hvdspark.data.direct_plan import DirectPlan
from hvdspark.data.distribute import list_paths
from hvdspark.data.elements import Loader, PointLabels
from hvdspark.data.examples import Examples, SplitTestAndTrain
from hvdspark.data.fields import Field, Role, natural
from hvdspark.data.file_batches import FileBatch, create_file_batches, read_file_batch
from hvdspark.data.handover import Handover, PartitionReader
from hvdspark.data.inspection import Inspected, Inspection, check_fields, check_problems
from hvdspark.data.manifest import Manifest
from hvdspark.data.multidataset import MultiDataSet
from hvdspark.data.normalisers import (
    ImagePreProcessingScaler,
    Normalizer,
    NormalizerMinMaxScaler,
    NormalizerStandardize,
)
from hvdspark.data.plan import EpochPlan
from hvdspark.data.portions import Portion, SpilledPortion, StagedPortion
from hvdspark.data.repartition import (
    DefaultRepartitioner,
    EqualRepartitioner,
    NoOpRepartitioner,
    Repartition,
    Repartitioner,
    RepartitionStrategy,
    repartition,
)
from hvdspark.data.row_groups import RowGroups, StagedRowGroups
from hvdspark.data.rows import Rows
from hvdspark.data.schedule import Plan
from hvdspark.data.schema import ColumnsLike, TensorColumn, plan_columns, plan_fields
from hvdspark.data.sources import FileSource, RDDSource, Source, TableSource
from hvdspark.data.stage import stage, stage_apart
from hvdspark.data.validation import ValidationResult, validate_data_sets, validate_multi_data_sets
from hvdspark.data.workers import use_driver_python, workers_explained

if TYPE_CHECKING:
    from hvdspark.data.batches import Batch, Batches

__all__ = [
    "Batch",
    "Batches",
    "ColumnPlan",
    "ColumnReader",
    "ColumnsLike",
    "DataSet",
    "DefaultRepartitioner",
    "DirectPlan",
    "EpochPlan",
    "EqualRepartitioner",
    "Examples",
    "Field",
    "FileBatch",
    "FileSource",
    "Handover",
    "ImagePreProcessingScaler",
    "Inspected",
    "Inspection",
    "Loader",
    "Manifest",
    "MultiDataSet",
    "NoOpRepartitioner",
    "Normalizer",
    "NormalizerMinMaxScaler",
    "NormalizerStandardize",
    "PartitionReader",
    "Plan",
    "PointLabels",
    "Portion",
    "RDDSource",
    "Repartition",
    "RepartitionStrategy",
    "Repartitioner",
    "Role",
    "RowGroups",
    "Rows",
    "Source",
    "SpilledPortion",
    "SplitTestAndTrain",
    "StagedPortion",
    "StagedRowGroups",
    "Table",
    "TableSource",
    "TensorColumn",
    "ValidationResult",
    "check_fields",
    "check_problems",
    "create_file_batches",
    "list_paths",
    "natural",
    "plan_columns",
    "plan_fields",
    "read_file_batch",
    "repartition",
    "stage",
    "stage_apart",
    "use_driver_python",
    "validate_data_sets",
    "validate_multi_data_sets",
    "workers_explained",
]


def __getattr__(name: str) -> Any:
    if name not in ("Batch", "Batches"):
        raise AttributeError(f"module 'hvdspark.data' has no attribute {name!r}; it has {', '.join(__all__)}")
    from hvdspark.data import batches

    return getattr(batches, name)
