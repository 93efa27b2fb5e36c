"""`collect_training_stats` of both masters on real Spark."""

import json
from pathlib import Path

import pytest
import torch

from contracts.table import make_master, make_network
from hvdspark import Network, NormalizerStandardize, ParameterAveragingTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def averaging(**options):
    return ParameterAveragingTrainingMaster(
        **{"batch_size_per_worker": 16, "num_workers": 2, "rng_seed": 5, "averaging_frequency": 5, **options}
    )


class Classifier(torch.nn.Sequential):
    """A module whose name says what it is."""


@pytest.mark.parametrize("make", [make_master, averaging])
def test_phases_of_all_ranks_and_the_driver(spark, table, tmp_path, make):
    network = make_network()
    model = SparkMultiLayer(spark, network, make(collect_training_stats=True))
    result = model.fit(table, epochs=2, run_directory=str(tmp_path / "run"))
    stats = result.stats
    assert {(line.rank, line.count) for line in stats.phases if line.phase == "step"} == {(0, 26), (1, 26)}
    assert [span.name for span in stats.driver] == ["checks", "staging", "launch", "ranks", "weights"]
    assert all(a.end_s == b.begin_s for a, b in zip(stats.driver, stats.driver[1:], strict=False))
    assert stats.driver[-1].end_s == pytest.approx(stats.total_s, abs=0.5)
    ranks = next(span for span in stats.driver if span.name == "ranks")
    for trace in stats.traces:
        assert ranks.begin_s - 1e-6 <= trace.spans["begin"].min() / 1e9
        assert trace.spans["end"].max() / 1e9 <= ranks.end_s + 1e-6
    for line in stats.phases:
        if line.phase in stats.ranks[line.rank].seconds:
            assert line.total_s == pytest.approx(stats.ranks[line.rank].seconds[line.phase], abs=1e-6)
    trace = json.loads(Path(stats.to_chrome_trace(str(tmp_path / "trace.json"))).read_text())
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"forward_backward", "exchange", "staging", "step"} <= names
    page = Path(stats.to_html(str(tmp_path / "report.html"))).read_text()
    for heading in ("Loss", "Where the time went", "The mean step of each rank", "The whole run"):
        assert f"<h2>{heading}" in page
    assert "<script" not in page
    assert len(stats._repr_html_()) < 5000


def test_off_by_default_and_the_old_records_are_gone(spark, table, tmp_path):
    (tmp_path / "run" / "phases").mkdir(parents=True)
    (tmp_path / "run" / "phases" / "rank-00000.jsonl").write_text("of an earlier run")
    normalizer = NormalizerStandardize().fit(table)
    plain = make_network()
    network = Network(Classifier(*plain.module), plain.loss, plain.optimizer, normalizer=normalizer)
    result = SparkMultiLayer(spark, network, make_master()).fit(table, run_directory=str(tmp_path / "run"))
    assert result.stats.phases == result.stats.traces == result.stats.driver == ()
    assert not (tmp_path / "run" / "phases").exists()
    with pytest.raises(ConfigurationError, match="collect_training_stats"):
        result.stats.to_chrome_trace(str(tmp_path / "trace.json"))
    assert "Where the time went" not in Path(result.stats.to_html(str(tmp_path / "report.html"))).read_text()
    assert result.stats.title.startswith("Classifier, "), "the user's module, not what stands in front of it"


@pytest.mark.parametrize("make", [make_master, averaging])
def test_it_round_trips(make):
    master = make(collect_training_stats=True)
    assert type(master).from_json(master.to_json()).collect_training_stats
    assert type(master).from_yaml(master.to_yaml()) == master != make()
    with pytest.raises(ConfigurationError, match="collect_training_stats"):
        make(collect_training_stats="often")
