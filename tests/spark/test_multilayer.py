"""SparkMultiLayer on real Spark, with real Horovod between its ranks."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, fit, make_master, make_network
from hvdspark import Evaluation, FixedThresholdAlgorithm, SharedTrainingMaster, SparkDl4jMultiLayer, SparkMultiLayer
from hvdspark.errors import ConfigurationError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fitted(spark, table, tmp_path_factory):
    model = SparkMultiLayer(spark, make_network(lr=0.05), make_master())
    directory = str(tmp_path_factory.mktemp("run"))
    return model, model.fit(table, epochs=6, validation=table, run_directory=directory)


def test_fit_learns_and_says_so(fitted):
    model, result = fitted
    scores = [epoch["score"] for epoch in result.history]
    assert scores[-1] < 0.5 * scores[0]
    assert result.score == scores[-1] == model.score
    assert result.history[-1]["validation_score"] < scores[-1] * 1.1
    assert result.network is model.network
    assert model.stats is result.stats
    assert result.seed == 5


def test_ranks_saw_every_row_once_an_epoch_in_equal_steps(fitted):
    ranks = fitted[1].stats.ranks
    assert [rank.rank for rank in ranks] == [0, 1]
    assert sum(rank.examples for rank in ranks) == 6 * 400
    assert abs(ranks[0].examples - ranks[1].examples) <= 6
    assert {rank.steps for rank in ranks} == {6 * 13}


def test_bytes_are_those_that_were_sent(fitted):
    result = fitted[1]
    num_parameters = result.network.num_parameters
    assert result.dense_bytes == 4 * num_parameters * 6 * 13
    assert result.bytes_sent >= 64 * 6 * 13
    assert result.stats.ranks[0].density < 0.5


def test_what_is_printed(fitted):
    text = str(fitted[1])
    for name in ("epochs", "loss", "validation loss", "bytes sent by a rank", "dense would be", "seconds"):
        assert f"\n{name} " in f"\n{text}"
    assert fitted[1]._repr_html_().startswith("<table>")


def test_report_is_one_quiet_file(fitted, tmp_path):
    path = fitted[1].stats.to_html(str(tmp_path / "report.html"))
    page = Path(path).read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for text in ("Epochs", "Ranks", "forward backward", "threshold_algorithm", "batch_size_per_worker"):
        assert text in page


def test_events_of_every_rank_are_in_the_run_directory(fitted):
    for rank in (0, 1):
        path = f"{fitted[1].run_directory}/events/rank-{rank:05d}.jsonl"
        events = [json.loads(line) for line in Path(path).read_text().splitlines()]
        assert [e["kind"] for e in events if e["kind"] != "progress"] == ["start", *["epoch"] * 6, "end"]
        assert {e["rank"] for e in events} == {rank}


def test_evaluate_equals_counting_by_hand(fitted, table):
    model, _ = fitted
    found = model.evaluate(table)
    assert isinstance(found, Evaluation)
    rows = table.collect()
    with torch.no_grad():
        output = model.network.module(torch.tensor([r.features for r in rows]))
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(expected, ([r.label for r in rows], output.argmax(1).numpy()), 1)
    np.testing.assert_array_equal(found.confusion_matrix, expected)
    assert found.accuracy > 0.9


def test_predict_keeps_columns_and_rows(fitted, table):
    model, _ = fitted
    predicted = model.predict(table)
    assert predicted.columns == ["id", "features", "label", "prediction", "probability"]
    rows = predicted.collect()
    assert sorted(row.id for row in rows) == list(range(400))
    with torch.no_grad():
        expected = torch.softmax(model.network.module(torch.tensor([r.features for r in rows])), 1).numpy()
    np.testing.assert_allclose([r.probability.toArray() for r in rows], expected, atol=1e-6)
    assert [r.prediction for r in rows] == [float(i) for i in expected.argmax(1)]


def test_regression_on_scalar_columns_with_vector_of_one(spark, table):
    from pyspark.sql import functions as f

    columns = [f.col("features")[i].alias(f"x{i}") for i in range(WIDTH)]
    data = table.select(*columns, (2 * f.col("features")[0] - f.col("features")[1]).alias("y"))
    network = make_network(torch.nn.MSELoss(), outputs=1, lr=0.03)
    master = make_master(threshold_algorithm=FixedThresholdAlgorithm(5e-3), residual_post_processor=None)
    model = SparkMultiLayer(spark, network, master, features_col=[f"x{i}" for i in range(WIDTH)], label_col="y")
    result = model.fit(data, epochs=6)
    assert result.history[-1]["score"] < 0.3 * result.history[0]["score"]
    row = model.predict(data).first()
    assert isinstance(row.prediction, float)
    assert "probability" not in row.asDict()
    with pytest.raises(ConfigurationError, match="MSELoss"):
        model.evaluate(data)


def test_whole_number_doubles_are_classes_under_a_class_loss(spark, table):
    from pyspark.sql import functions as f

    data = table.withColumn("label", f.col("label").cast("double"))
    model = SparkMultiLayer(spark, make_network(), make_master())
    assert model.fit(data).score > 0
    assert model.evaluate(data).num_examples == 400


def test_same_seed_same_weights_and_both_launchers_agree(spark, table):
    def trained(**options):
        model = SparkMultiLayer(spark, make_network(), make_master(**options))
        model.fit(table.coalesce(1).sortWithinPartitions("id"))
        return torch.cat([p.reshape(-1) for p in model.network.module.parameters()]).detach().numpy().tobytes()

    first = trained()
    assert first == trained()
    assert first == trained(launcher="horovod_spark")
    assert first == trained(launcher="local")
    assert first != trained(rng_seed=6)


def test_null_codec_on_two_ranks_equals_one_rank_with_the_whole_batch(spark, table):
    def trained(workers, batch, **options):
        master = make_master(num_workers=workers, batch_size_per_worker=batch, exchange="dense", **options)
        model = SparkMultiLayer(spark, make_network(), master)
        model.fit(table.coalesce(1).sortWithinPartitions("id"), epochs=1)
        return torch.cat([p.reshape(-1) for p in model.network.module.parameters()]).detach().numpy()

    alone = trained(1, 32)
    np.testing.assert_allclose(trained(2, 16, encode="gradients"), alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(trained(2, 16, encode="updates"), alone, rtol=0, atol=1e-6)


def test_the_model_comes_back_from_its_files(fitted, tmp_path):
    model, _ = fitted
    model.network.save(str(tmp_path / "model"))
    fresh = make_network().load(str(tmp_path / "model"))
    for a, b in zip(fresh.module.parameters(), model.network.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_seed_apis_name_is_the_same_class():
    assert SparkDl4jMultiLayer is SparkMultiLayer


def test_master_counts_workers_by_itself(spark, table):
    result = fit(spark, table, master=make_master(num_workers=None, workers_per_node=2))
    assert len(result.stats.ranks) == 2


def test_master_round_trips(tmp_path):
    options = {"residual_post_processor": None, "combine": "sum", "magnitude": "multiples"}
    master = make_master(threshold_algorithm=FixedThresholdAlgorithm(2e-3), **options)
    assert SharedTrainingMaster.from_json(master.to_json()) == master
    assert SharedTrainingMaster.from_yaml(master.to_yaml()) == master
    assert pickle.loads(pickle.dumps(master)) == master
    with pytest.raises(ConfigurationError, match="no option 'combin'"):
        SharedTrainingMaster.from_yaml(master.to_yaml().replace("combine:", "combin:"))


def test_epochs_are_logged(spark, table, caplog):
    with caplog.at_level(logging.INFO, logger="hvdspark"):
        fit(spark, table)
    assert "epoch 1: loss " in caplog.text
