"""Predictions, scores and evaluations on a GPU, against those on the CPU."""

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, make_network, make_rows
from hvdspark import SparkMultiLayer
from hvdspark.errors import ModelError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.spark,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]


class Where(torch.nn.Module):
    """Adds nothing, but fails where it is not on the device that was asked for."""

    def __init__(self, wanted):
        super().__init__()
        self.wanted = wanted

    def forward(self, x):
        if x.device.type != self.wanted:
            raise RuntimeError(f"on {x.device}, not on {self.wanted}")
        return x


@pytest.fixture(scope="module")
def table(spark):
    return spark.createDataFrame(make_rows(), "id int, features array<float>, label int").repartition(3).cache()


def models(spark, loss=None):
    """Return models that compute on the GPU and on the CPU."""
    found = []
    for device in ("auto", "cpu"):
        network = make_network(loss)
        network.module.append(Where("cuda" if device == "auto" else "cpu"))
        found.append(SparkMultiLayer(spark, network, device=device))
    return found


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0])], ids=["plain", "weighted classes"])
def test_tables_are_predicted_scored_and_evaluated_alike(spark, table, weights):
    there, here = models(spark, torch.nn.CrossEntropyLoss(weight=weights))
    found, expected = (
        {row.id: (row.prediction, row.probability.toArray()) for row in model.predict(table).collect()}
        for model in (there, here)
    )
    for key, (prediction, probability) in expected.items():
        assert found[key][0] == prediction
        np.testing.assert_allclose(found[key][1], probability, atol=1e-5)
    found, expected = ({row.id: row.score for row in model.score_examples(table).collect()} for model in (there, here))
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), atol=1e-5)
    assert there.calculate_score(table) == pytest.approx(here.calculate_score(table), abs=1e-5)
    assert there.evaluate(table).accuracy == here.evaluate(table).accuracy
    assert there.evaluate_roc_multi_class(table).average_auc == pytest.approx(
        here.evaluate_roc_multi_class(table).average_auc, abs=1e-5
    )


def test_pairs_and_arrays_alike(spark):
    there, here = models(spark)
    x = np.random.default_rng(2).normal(size=(200, WIDTH)).astype(np.float32)
    pairs = spark.sparkContext.parallelize(list(enumerate(x)), 3)
    found, expected = (model.feed_forward_with_key(pairs).collectAsMap() for model in (there, here))
    np.testing.assert_allclose([found[i] for i in range(200)], [expected[i] for i in range(200)], atol=1e-5)
    np.testing.assert_allclose(there.predict(x), here.predict(x), atol=1e-5)
    assert next(there.network.module.parameters()).device.type == "cpu"
    there.device = "cuda"  # also for one example
    assert there.predict(x[0]).shape == (CLASSES,)
    there.network.module.to("cuda")
    assert there.predict(torch.from_numpy(x).to("cuda")).device.type == "cuda"
    there.device = "auto"
    np.testing.assert_allclose(there.predict(x[:1]), here.predict(x[:1]), atol=1e-5)


def test_memory_that_runs_out(spark):
    model = SparkMultiLayer(spark, make_network(), device="cuda")
    model.network.output = lambda output: output.new_empty(1 << 45)
    with pytest.raises(ModelError, match="smaller batch_size"):
        model.predict(np.zeros((2, WIDTH), np.float32))
