"""Bad input: each a clear error that names the thing and the fix, and nothing is left of it."""

import functools
import threading
import time

import pytest
import torch

from contracts.table import CLASSES, WIDTH, fit, make_master, make_network
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError, DataError, ModelError, RankFailed, TooFewSlots, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def vector_loss(output, target):
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


class Unpicklable(torch.nn.Linear):
    def __init__(self):
        super().__init__(WIDTH, CLASSES)
        self.lock = threading.Lock()


class Failing(torch.nn.Linear):
    """Fails on rank 1 at its third step."""

    def __init__(self):
        super().__init__(WIDTH, CLASSES)
        self.calls = 0

    def forward(self, x):
        import horovod.torch as hvd

        self.calls += 1
        if hvd.rank() == 1 and self.calls == 3:
            raise KeyError("the user's own mistake")
        return super().forward(x)


def test_a_missing_column(spark, table):
    with pytest.raises(DataError, match=r"'feature' is not there: did you mean 'features'\?"):
        fit(spark, table, features_col="feature")


def test_a_text_label(spark, table):
    from pyspark.sql import functions as f

    with pytest.raises(DataError, match="StringIndexer"):
        fit(spark, table.withColumn("label", f.col("label").cast("string")))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((400, None, 1), r"'features' has nulls in 1 row"),
        ((400, [1.0] * WIDTH, None), r"'label' has nulls in 1 row"),
        ((400, [1.0] * (WIDTH - 1), 1), r"'features' has arrays of unequal width"),
        ((400, [float("nan")] * WIDTH, 1), r"'features' has NaN or infinity in 1 row"),
    ],
)
def test_bad_rows(spark, table, tmp_path, row, words):
    bad = spark.createDataFrame([row], table.schema)
    model = SparkMultiLayer(spark, make_network(), make_master())
    with pytest.raises(DataError, match=words):
        model.fit(table.union(bad), run_directory=str(tmp_path))
    assert not list(tmp_path.glob("staged-*"))


def test_nan_labels(spark, table):
    from pyspark.sql import functions as f

    data = table.withColumn("label", f.when(f.col("id") == 7, float("nan")).otherwise(1.0))
    with pytest.raises(DataError, match="'label' has NaN"):
        fit(spark, data, make_network(torch.nn.MSELoss(), outputs=1))


def test_an_empty_dataframe(spark, table):
    with pytest.raises(DataError, match="the DataFrame is empty"):
        fit(spark, table.limit(0))
    with pytest.raises(DataError, match="the DataFrame is empty"):
        SparkMultiLayer(spark, make_network()).evaluate(table.limit(0))


def test_more_workers_than_slots(spark, table, tmp_path):
    from pyspark.sql import functions as f

    model = SparkMultiLayer(spark, make_network(), make_master(num_workers=9))
    never = f.when(f.col("id") >= 0, f.raise_error(f.lit("the data were staged first"))).otherwise(0)
    begin = time.monotonic()
    with pytest.raises(TooFewSlots, match="9 ranks were asked for, but only 2"):
        model.fit(table.withColumn("label", never.cast("int")), run_directory=str(tmp_path / "run"))
    assert time.monotonic() - begin < 2
    assert not (tmp_path / "run").exists()


def test_a_module_that_cannot_travel(spark, table):
    network = Network(Unpicklable(), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(ModelError, match=r"Network.module cannot travel to the workers: .*lock"):
        fit(spark, table, network)


def test_a_loss_that_is_no_scalar(spark, table):
    with pytest.raises(RankFailed, match=r"vector_loss returned a tensor of shape \[16\]") as caught:
        fit(spark, table, make_network(vector_loss))
    assert isinstance(caught.value.__cause__, ModelError)


def test_labels_beyond_the_outputs(spark, table):
    with pytest.raises(RankFailed, match=r"labels run from \d to 2, the module has 2 outputs"):
        fit(spark, table, make_network(outputs=2))


def test_shapes_that_do_not_fit(spark, table):
    from pyspark.sql import functions as f

    data = table.withColumn("label", f.col("label").cast("float"))
    with pytest.raises(RankFailed, match=r"labels of shape \[16\] do not fit an output of shape \[16, 3\]"):
        fit(spark, data, make_network(torch.nn.MSELoss()))


def test_a_users_exception_arrives_with_rank_and_cause(spark, table):
    network = Network(Failing(), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(RankFailed, match=r"rank 1 on .* failed: .*the user's own mistake") as caught:
        fit(spark, table, network)
    assert caught.value.rank == 1
    assert isinstance(caught.value.__cause__, KeyError)
    assert fit(spark, table).score > 0, "the session is of no use any more"


def test_not_a_dataframe(spark):
    with pytest.raises(UnsupportedError, match="this is a list"):
        fit(spark, [1, 2])


def test_options(spark, table):
    with pytest.raises(ConfigurationError, match="did you mean 'batch_size_per_worker'"):
        SharedTrainingMaster(batch_size_per_workers=3)
    with pytest.raises(ConfigurationError, match="mpirun"):
        make_master(transport="mpi")
    with pytest.raises(ConfigurationError, match="needs a training master"):
        SparkMultiLayer(spark, make_network()).fit(table)
    with pytest.raises(ConfigurationError, match="epochs"):
        SparkMultiLayer(spark, make_network(), make_master()).fit(table, epochs=0)
    with pytest.raises(DataError, match="'prediction' already"):
        SparkMultiLayer(spark, make_network()).predict(table.withColumnRenamed("id", "prediction"))


def test_too_many_ranks_on_a_host(spark, table):
    with pytest.raises(RankFailed, match="workers_per_node=1, but 2 ranks run on"):
        fit(spark, table, master=make_master(workers_per_node=1))
