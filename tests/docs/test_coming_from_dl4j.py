"""Each line of the tables of docs/coming-from-dl4j.md runs, and does what the method of Deeplearning4j is for."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import hvdspark
from contracts.method_tables import Calls, read_lines, read_seed
from contracts.pages import programs, run, text_of
from hvdspark import RocMeasure
from hvdspark.errors import ConfigurationError
from hvdspark.evaluation import evaluate_batches

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(600)]

PAGE = "coming-from-dl4j.md"
LINES = read_lines(PAGE)
MISSING = [line for line in LINES if line.call == "missing"]
OF_MODELS = [line for line in LINES if line.cls.startswith("Spark") and line not in MISSING]
OF_MASTERS = [line for line in LINES if line.cls.endswith("Master") and line not in MISSING]
OPTIONS = [line for line in OF_MASTERS if re.match(r"\w+TrainingMaster\(\w", line.call)]
OTHERS = [line for line in OF_MASTERS if line not in OPTIONS]
REFUSED_BESIDE = [(line, *given) for line in OPTIONS for given in re.findall(r"Refused with `(\w+)=(.+?)`", line.note)]
REFUSED_BY_FIT = [line for line in OPTIONS if "`fit` refuses it" in line.note]


def test_the_page_has_one_line_for_each_method():
    assert Counter(line[:3] for line in LINES) == Counter(read_seed())
    assert len(LINES) == 90


def test_what_is_called_missing_is_not_there():
    for line in MISSING:
        cls = getattr(hvdspark, line.cls, None)
        assert cls is None or not hasattr(cls, line.option), f"{line} is there: write its call"


@pytest.fixture(scope="module")
def page(spark, tmp_path_factory):
    """The names of the page's programs, after they have run in an empty folder, where the calls run too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        program, names = programs(PAGE)
        known = run(program, f"{PAGE}, One program")
        assert Path("report.html").exists()
        exec(compile(names, f"{PAGE}, Names in the tables", "exec"), known)
        yield Calls(known)


# ---- models --------------------------------------------------------------------------------------------------------


def rows_of(page, owner):
    """What torch alone makes of the rows that a model is given, and their labels."""
    network, data = page.known[owner].network, page.known["multi" if owner == "joint" else "data"]
    features, labels = (data.features, data.labels[0]) if owner == "joint" else ([data.features], data.labels)
    with torch.no_grad():
        return network.module(*map(torch.from_numpy, features)), torch.from_numpy(labels)


def check_accuracy(page, line):
    output, labels = rows_of(page, line.owner)
    right = (output.argmax(1) == labels).double().mean().item()
    assert page.evaluate(line.call).accuracy == pytest.approx(right)


def check_roc(page, line):
    output, labels = rows_of(page, line.owner)
    batch = (output.softmax(1).numpy(), labels.numpy(), None)
    (expected,) = evaluate_batches([RocMeasure(threshold_steps=32)], [batch])
    assert page.evaluate(line.call).auc == pytest.approx(expected.auc)
    assert 0 < expected.auc != 0.5


def check_fit(page, line):
    network = page.known[line.owner].network
    is_new = line.call not in page.found  # overloads of one method share a fit
    before = [weight.detach().clone() for weight in network.module.parameters()]
    result = page.evaluate(line.call)
    assert result.network is network
    assert math.isfinite(result.score)
    assert sum(rank.examples for rank in result.stats.ranks) == len(page.known["data"])
    moved = [not torch.equal(*pair) for pair in zip(before, network.module.parameters(), strict=True)]
    assert any(moved) or not is_new


def check_scores(page, line):
    assert ("batch_size=" in line.call) == ("atchSize" in line.signature or "atchsize" in line.signature)
    given, (output, labels) = page.keywords(line.call), rows_of(page, line.owner)
    losses = torch.nn.functional.cross_entropy(output, labels, reduction="none").double().numpy()
    scored = page.evaluate(line.call)
    if "average" in given:
        assert scored == pytest.approx(losses.mean() if given["average"] else losses.sum(), rel=1e-5)
        return
    penalty = page.known[line.owner].network.penalty().item()
    assert penalty > 0
    expected = losses + penalty if given["include_regularization"] else losses
    np.testing.assert_allclose(scored.collect(), expected, rtol=1e-5, atol=1e-6)


def check_prediction(page, line):
    given, found = page.argument(line.call), page.evaluate(line.call)
    assert type(found) is type(given)
    rows = np.atleast_2d(given.toArray().astype(np.float32))
    with torch.no_grad():
        expected = page.known["network"].module(torch.from_numpy(rows)).softmax(1).numpy()
    np.testing.assert_allclose(np.atleast_2d(found.toArray()), expected, atol=1e-6)


def check_score_of_the_last_fit(page, line):
    page.evaluate(f"{line.owner}.fit(rdd)")
    assert page.evaluate(line.call) == page.known[line.owner].stats.history[-1]["score"]


def check_stats(page, line):
    assert {phase.rank for phase in page.evaluate(line.call).phases} == {0, 1}


def check_getter(page, line):
    known = page.known
    expected = {
        "getSparkContext": known["spark"].sparkContext,
        "getNetwork": known["network"],
        "getTrainingMaster": known["master"],
        "getDefaultEvaluationWorkers": 4,
    }
    assert page.evaluate(line.call) == expected[line.method]


def check_setter(page, line):
    expected = {
        "setNetwork": page.known["new_network"],
        "setDefaultEvaluationWorkers": 2,
        "setCollectTrainingStats": page.known["master"].replaced(collect_training_stats=False),
    }
    assert page.evaluate(line.call) == expected[line.method]


CHECKS = {
    "fit": check_fit,
    "calculateScore": check_scores,
    "scoreExamples": check_scores,
    "evaluateROC": check_roc,
    "evaluate": check_accuracy,
    "predict": check_prediction,
    "getScore": check_score_of_the_last_fit,
    "getSparkTrainingStats": check_stats,
    "get": check_getter,
    "set": check_setter,
}


@pytest.mark.parametrize("line", OF_MODELS, ids=str)
def test_a_method_of_a_model(page, line):
    check = next(check for start, check in CHECKS.items() if line.method.startswith(start))
    check(page, line)


# ---- masters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", OPTIONS, ids=str)
def test_an_option_of_a_master(page, line):
    given, master = page.keywords(line.call), page.evaluate(line.call)
    assert line.option in given
    assert type(master).__name__ == line.cls
    plain = type(master)(batch_size_per_worker=64)
    assert getattr(master, line.option) != getattr(plain, line.option), "the page gives what is there anyway"
    for name, value in given.items():
        assert getattr(master, name) == (tuple(value) if isinstance(value, list) else value)
    if line.option == "training_hooks":
        with pytest.raises(ConfigurationError, match="TrainingHook"):
            master.to_json()
        return
    assert json.loads(master.to_json())[line.option] != json.loads(plain.to_json())[line.option]
    assert type(master).from_json(master.to_json()) == master == type(master).from_yaml(master.to_yaml())


@pytest.mark.parametrize("line", OTHERS, ids=str)
def test_another_method_of_a_master(page, line):
    master = page.evaluate(line.call)
    assert type(master).__name__ == line.cls
    if line.method in ("fromJson", "fromYaml"):
        assert f".{line.option}(" in line.call
        assert master == page.known["master" if line.cls == "SharedTrainingMaster" else "averaging"]
    else:
        assert master.training_hooks == (() if line.method == "removeHook" else (page.known["hook"],))


@pytest.mark.parametrize(("line", "option", "value"), REFUSED_BESIDE, ids=str)
def test_what_the_page_says_is_refused(page, line, option, value):
    master = page.evaluate(line.call)
    with pytest.raises(ConfigurationError, match=f"{line.option}.*{option}|{option}.*{line.option}|'mpi'"):
        master.replaced(**{option: eval(value, page.known)})


@pytest.mark.parametrize("line", REFUSED_BY_FIT, ids=str)
def test_what_the_page_says_fit_refuses(page, line):
    """A DataFrame that is staged: refused before anything runs."""
    spark = page.known["spark"]
    table = spark.createDataFrame([([0.0] * 4, 0)], "features array<float>, label int")
    model = hvdspark.SparkMultiLayer(spark, page.known["network"], page.evaluate(line.call))
    with pytest.raises(ConfigurationError, match=f"{line.option} cannot act"):
        model.fit(table)


def test_the_defaults_are_as_the_page_says(page):
    table = text_of(PAGE).split("Defaults that are not")[1].split("and why |")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| [^|]+ \| (.+?)<br>", table, re.MULTILINE)
    told = {name: eval(cell.strip("`"), page.known) for name, cell in rows if cell.startswith("`")}
    assert len(rows) == len(told) + 1, "but for the one that is required"
    masters = (hvdspark.SharedTrainingMaster, hvdspark.ParameterAveragingTrainingMaster)
    defaults = {name: field.default for master in masters for name, field in master.model_fields.items()}
    for names, value in told.items():
        for name in re.findall(r"\w+", names):
            assert defaults[name] == value, name
    with pytest.raises(ConfigurationError, match="batch_size_per_worker"):
        hvdspark.SharedTrainingMaster()


def test_what_else_the_page_says_differs(page):
    """Sentences that no line of a table shows."""
    spark, model, network, data = (page.known[name] for name in ("spark", "model", "network", "data"))
    assert hvdspark.SparkDl4jMultiLayer is hvdspark.SparkMultiLayer
    assert hvdspark.SparkMultiLayer(spark, network).score is None
    one_hot = hvdspark.DataSet(data.features, np.eye(4, dtype=np.float32)[data.labels])
    same = spark.sparkContext.parallelize(one_hot.batch_by(10), 2)
    assert model.calculate_score(same) == pytest.approx(model.calculate_score(page.known["rdd"]))
    assert model.evaluate(same) == model.evaluate(page.known["rdd"])
    for option, value, said in (("rng_sed", 7, "rng_seed"), ("storage_level", "MEMORY_ONLY_SER", "MEMORY_ONLY, ")):
        with pytest.raises(ConfigurationError, match=said):
            page.known["master"].replaced(**{option: value})
