"""A network with a normaliser, trained and used on Spark."""

import numpy as np
import pytest
import torch

from contracts.table import fit, make_master, make_network
from hvdspark import NormalizerStandardize, SparkMultiLayer

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def test_training_evaluation_and_prediction_see_normalised_features(spark):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)) * [1, 1000, 1e-3, 1, 1, 1] + [0, 1e4, 0, 0, 0, 5]
    x = x.astype(np.float32)
    labels = ((x - x.mean(axis=0)) / x.std(axis=0))[:, :3].argmax(axis=1).tolist()

    def table(features):
        rows = list(zip(features.tolist(), labels, strict=True))
        return spark.createDataFrame(rows, "features array<float>, label int").coalesce(2)

    raw = table(x)
    fitted = NormalizerStandardize().fit(raw)
    ready = table(fitted.transform(x))
    network, plain = make_network(normalizer=fitted), make_network()
    results = [fit(spark, data, each, epochs=3) for data, each in ((raw, network), (ready, plain))]
    assert results[0].history[-1]["score"] == results[1].history[-1]["score"]
    ours = network.module.get_submodule("module").state_dict()
    for name, value in plain.module.state_dict().items():
        assert torch.equal(value, ours[name])
    models = [(SparkMultiLayer(spark, network), raw), (SparkMultiLayer(spark, plain), ready)]
    matrices = [model.evaluate(data).confusion_matrix for model, data in models]
    assert np.array_equal(*matrices)
    predicted = [[row.prediction for row in model.predict(data).collect()] for model, data in models]
    assert predicted[0] == predicted[1]


def test_a_regression_is_predicted_in_the_units_of_its_labels(spark):
    x = np.random.default_rng(0).normal(100, 20, (300, 6))
    rows = [(row.tolist(), float(1e4 + 30 * row[0])) for row in x]
    table = spark.createDataFrame(rows, "features array<float>, label double").coalesce(2)
    network = make_network(torch.nn.MSELoss(), 1, normalizer=NormalizerStandardize(fit_labels=True).fit(table))
    fit(spark, table, network, make_master(exchange="dense"), epochs=6)
    found = SparkMultiLayer(spark, network).predict(table).collect()
    errors = [abs(row.prediction - row.label) for row in found]
    assert np.mean(errors) < 0.3 * np.std([row.label for row in found])
    assert np.mean([row.prediction for row in found]) == pytest.approx(13e3, rel=0.05)
