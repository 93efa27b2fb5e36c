"""`fit(early_stopping=...)` on real Spark: what is stopped, what is kept, and what is refused."""

import pytest
import torch

from contracts.table import make_master, make_network
from hvdspark import EarlyStopping, SparkMultiLayer
from hvdspark.errors import ConfigurationError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def test_a_fit_ends_early_with_the_best_weights(spark, table, tmp_path):
    model = SparkMultiLayer(spark, make_network(), make_master())
    stopping = EarlyStopping(target_score=100.0, evaluate_every=2)
    result = model.fit(table, epochs=5, validation=table, early_stopping=stopping, run_directory=str(tmp_path / "a"))
    assert (len(result.history), result.best_epoch) == (2, 1)
    assert "validation score" in result.stop_reason
    assert result.score == model.score == result.history[1]["score"]
    assert "best epoch            2 of 2" in str(result)
    assert "stopped because" in str(result)
    plain = make_network()
    SparkMultiLayer(spark, plain, make_master()).fit(table, epochs=2, run_directory=str(tmp_path / "b"))
    for ours, theirs in zip(plain.module.parameters(), result.network.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_has_nothing_to_look_at_is_refused(spark, table):
    model = SparkMultiLayer(spark, make_network(), make_master())
    with pytest.raises(ConfigurationError, match="monitor='validation_score' has nothing to look at"):
        model.fit(table, early_stopping=EarlyStopping(monitor="validation_score"))
    with pytest.raises(ConfigurationError, match="an EarlyStopping is needed, this is a int"):
        model.fit(table, early_stopping=3)
