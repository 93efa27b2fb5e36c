import numpy as np
import pyarrow as pa
import pytest

from hvdspark.data.columns import ColumnField, ColumnPlan
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest, StagedFile
from hvdspark.data.parts import write_parts


def record_batch(features, labels):
    """What Spark hands to a task for a table of arrays with a label, as `ColumnPlan.select` selects it."""
    listed = pa.array([list(map(float, row)) for row in features], pa.list_(pa.float32()))
    return pa.RecordBatch.from_arrays([listed, pa.array(labels)], names=["hvdspark_feature_0", "hvdspark_label_0"])


@pytest.fixture
def staged(tmp_path):
    """A staged data set of known rows, made without Spark: a function of its partitions' sizes."""

    def make(rows_per_partition, *, width=3, rows_per_group=8, label_width=None, directory=tmp_path):
        features_field = ColumnField("feature", 0, ("x",), "array", "float32")
        label = ("scalar", "int64") if label_width is None else ("array", "float32")
        plan = ColumnPlan((features_field, ColumnField("label", 0, ("y",), *label)))
        files, row = [], 0
        for partition, rows in enumerate(rows_per_partition):
            numbers = np.arange(row, row + rows)
            row += rows
            features = numbers[:, None] + np.arange(width) / 8
            labels = numbers if label_width is None else [[float(n)] * label_width for n in numbers]
            batches = [record_batch(features[i : i + 5], labels[i : i + 5]) for i in range(0, rows, 5)]
            for result in write_parts(plan.rows(batches), [str(directory)], partition, rows_per_group):
                assert not result.problems
                assert not result.storage_error
                files.append(StagedFile(result.file, result.rows_per_group, result.num_bytes, result.checksum))
        fields = (
            Field("feature", 0, "x", "float32", (width,)),
            Field("label", 0, "y", label[1], () if label_width is None else (label_width,)),
        )
        manifest = Manifest(fields, tuple(files))
        manifest.write(directory)
        return manifest

    return make
