"""The pages for those who come from another library: ports run as they stand there, and every option has its line."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from contracts.pages import programs, run, text_of

HOROVOD, DISTRIBUTOR = "coming-from-horovod-estimators.md", "coming-from-torchdistributor.md"
PORTS = [(page, number) for page in (HOROVOD, DISTRIBUTOR) for number in range(len(programs(page)))]


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("page", "number"), PORTS, ids=[f"{page[12:-3]}-{number}" for page, number in PORTS])
def test_port(page, number, spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = programs(page)[number]
    for call in ("save", "load"):  # to Spark a path is one in the folder where the JVM was started
        program = program.replace(f'{call}("model")', f"{call}({str(tmp_path / 'model')!r})")
    run(program, f"{page}, {number}", spark=spark)


def old_programs(page):
    """What the page shows of the other library; it is not run."""
    return re.findall(r"^```py\n(.*?)```", text_of(page), re.DOTALL | re.MULTILINE)


def parameters_of(kind):
    """The options of one of Horovod's estimators, from its source: its own imports do not work beside Spark 4."""
    package = Path(importlib.util.find_spec("horovod").origin).parent
    tree = ast.parse((package / "spark" / kind.lower() / "estimator.py").read_text())
    (estimator,) = [node for node in tree.body if getattr(node, "name", "") == f"{kind}Estimator"]
    (made,) = [node for node in estimator.body if getattr(node, "name", "") == "__init__"]
    return {argument.arg for argument in made.args.args} - {"self"}


def test_every_option_of_horovods_estimators_has_a_line():
    lines = re.findall(r"^\| (`.*?) \| (both|Torch|Keras) \|", text_of(HOROVOD), re.MULTILINE)
    told = {"Torch": set(), "Keras": set()}
    for names, owner in lines:
        for kind in told if owner == "both" else [owner]:
            told[kind] |= set(re.findall(r"`(\w+)`", names))
    assert told == {kind: parameters_of(kind) for kind in told}


def test_the_old_program_uses_options_that_horovod_has():
    (program,) = old_programs(HOROVOD)
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    (made,) = [call for call in calls if getattr(call.func, "id", "") == "TorchEstimator"]
    assert {option.arg for option in made.keywords} <= parameters_of("Torch")


def test_every_option_of_torchdistributor_has_a_line():
    from pyspark.ml.torch.distributor import TorchDistributor

    told = set(re.findall(r"^\| `(\w+)", text_of(DISTRIBUTOR), re.MULTILINE))
    known = {name for name in inspect.signature(TorchDistributor).parameters if not name.startswith("_")}
    assert known | {"run"} <= told


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_function_with_distributed_data_parallel_runs_as_it_is(spark):
    before, launched = old_programs(DISTRIBUTOR)
    function = before[before.index("def train") : before.index("distributor = ")]
    names = run(function + launched.replace("print(", "found = (", 1), DISTRIBUTOR, spark=spark)
    assert len(names["found"]) == 2
    assert min(names["found"]) > 0.9
