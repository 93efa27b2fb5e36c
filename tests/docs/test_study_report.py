"""The parts of the study on made-up numbers: its rates, its tables, its records and its counts of bytes."""

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hvdspark.collectives.intent import INTENT_BYTES

STUDY = Path(__file__).parents[2] / "docs" / "benchmarks" / "study"
COLUMNS = ["arm", "loss", "each seed", "rate", "sent", "wire", "over dense", "common seeds", "within two s"]


@pytest.fixture(scope="module")
def modules():
    """Import modules of the study by name; they are scripts, so their names are forgotten again afterwards."""
    names = {file.stem for file in STUDY.glob("*.py")} - {"__main__"}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(STUDY))
    yield lambda *wanted: [importlib.import_module(name) for name in wanted]
    sys.path.remove(str(STUDY))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


# ---- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [-3, -1, 0, 1, 3])
@pytest.mark.parametrize("count", [3, 4, 7])
def test_search_of_a_convex_loss(modules, best, count):
    [rates] = modules("rates")
    tried = []

    def loss_at(rate):
        tried.append(rate)
        return (math.log2(rate / 0.4) - best) ** 2

    found = rates.search(loss_at, 0.4, count)
    assert len(tried) == len(set(tried)) == count, "all arms have the same number of trainings"
    exponents = sorted(round(math.log2(rate / 0.4)) for rate in tried)
    assert exponents == list(range(exponents[0], exponents[0] + count)), "a factor of two apart, without gaps"
    nearest = min(max(best, exponents[0]), exponents[-1])
    assert found == 0.4 * 2.0**nearest
    if count == 7:
        assert nearest == best


def test_search_goes_down_where_all_diverge(modules):
    [rates] = modules("rates")
    tried = []
    rates.search(lambda rate: tried.append(rate) or math.inf, 1.0, 5)
    assert sorted(tried) == [2.0**k for k in range(-3, 2)]


# ---- tables ------------------------------------------------------------------------------------------------------


def setting(runs, **other):
    """10 parameters and 5 steps: a rank sends 200 bytes if it is dense, and a ring of four carries 300."""
    plain = {
        "workload": "lm", "hidden": 1, "parameters": 10, "data": "0" * 64, "ranks": 4, "batch": 8, "steps": 5,
        "optimizer": "momentum", "schedule": "cosine", "libraries": {"python": "3"},
    }  # fmt: skip
    return runs.Setting(**plain | other)


@pytest.fixture
def made(modules):
    """Make the records of an arm: ``made("codes", {0: 1.5}, rate=0.2, sent=4, wire=2)``; None: it diverged."""
    [runs] = modules("runs")

    def make(arm, losses, *, rate=0.1, sent=200, wire=300, code="a"):
        return [
            (
                runs.Run(setting(runs), arm, f"method({arm})", rate, seed),
                runs.Outcome([] if loss is None else [runs.Point(5, loss, sent, wire)], code=code),
            )
            for seed, loss in losses.items()
        ]

    return make


@pytest.fixture
def table(modules):
    """Make the one table of some records."""
    [report] = modules("report")

    def make(*records):
        [found] = report.tables(record for part in records for record in part)
        return found

    return make


def rows(table):
    """Read a printed table: by arm, the cells by column."""
    lines = [line[2:-2].split(" | ") for line in str(table).splitlines() if line.startswith("| ")]
    assert lines[0] == COLUMNS
    return {cells[0]: dict(zip(COLUMNS, cells, strict=True)) for cells in lines[1:]}


def test_sent_and_wire_are_each_against_their_own(made, table):
    found = rows(table(made("codes", {0: 1.5}, sent=2, wire=30), made("dense", {0: 1.0})))
    assert list(found) == ["dense", "codes"], "dense is first"
    assert (found["dense"]["sent"], found["dense"]["wire"]) == ("1/1.0", "1/1.0")
    assert (found["codes"]["sent"], found["codes"]["wire"]) == ("1/100", "1/10.0")


def test_rate_is_chosen_on_seeds_that_do_not_count(made, table):
    tried = [made("codes", {1000: loss}, rate=rate) for rate, loss in [(0.1, 1.4), (0.2, 1.3), (0.4, 1.5)]]
    counts = [made("codes", {0: 1.0, 1: 1.1}, rate=0.1), made("codes", {0: 1.2, 1: 1.6}, rate=0.2)]
    cells = rows(table(*tried, *counts))["codes"]
    assert (cells["rate"], cells["each seed"], cells["loss"]) == ("0.2", "1.200, 1.600", "1.4000")
    cells = rows(table(*tried[:2], *counts))["codes"]
    assert cells["rate"] == "0.2 (edge)", "a higher rate may be better"


def test_rate_that_has_not_all_its_seeds_is_not_chosen(made, table):
    tried = [made("codes", {1000: 1.4, 1001: 1.4}, rate=0.1), made("codes", {1000: 1.3}, rate=0.2)]
    assert rows(table(*tried, made("codes", {0: 1.5}, rate=0.1)))["codes"]["rate"] == "0.1 (edge)"
    unfinished = table(*tried)
    assert (unfinished.rows, unfinished.unfinished) == ([], ["codes"])


def test_arms_are_compared_over_common_seeds(made, table):
    dense = made("dense", {0: 1.0, 1: 1.1, 2: 3.0})
    cells = rows(table(dense, made("codes", {0: 1.2, 1: 1.4, 7: 0.0})))["codes"]
    assert (cells["over dense"], cells["common seeds"]) == ("+0.2500", "2")
    cells = rows(table(dense, made("codes", {7: 1.0})))["codes"]
    assert (cells["over dense"], cells["common seeds"], cells["within two s"]) == ("", "0", "")
    cells = rows(table(made("codes", {0: 1.0})))["codes"]
    assert (cells["over dense"], cells["common seeds"], cells["within two s"]) == ("", "", ""), "there is no dense"


@pytest.mark.parametrize(("over", "within"), [(0.19, "yes"), (0.21, "no"), (-0.5, "yes")])
def test_within_two_deviations_of_dense(made, table, over, within):
    found = table(made("dense", {0: 0.9, 1: 1.0, 2: 1.1}), made("codes", {1: 1.0 + over}))
    assert found.spread == pytest.approx(0.2)
    assert rows(found)["codes"]["within two s"] == within


def test_two_seeds_of_dense_are_too_few_to_judge_by(made, table):
    found = table(made("dense", {0: 0.9, 1: 1.0}), made("codes", {0: 0.9, 1: 1.0}))
    assert rows(found)["codes"]["within two s"] == ""
    assert rows(found)["codes"]["over dense"] == "+0.0000"


def test_diverged_seeds(made, table):
    dense = made("dense", {0: 0.9, 1: 1.0, 2: 1.1})
    cells = rows(table(dense, made("codes", {0: 1.0, 1: None})))["codes"]
    assert [cells[name] for name in COLUMNS[4:]] == ["diverges", "", "+inf", "2", "no"]
    found = table(made("dense", {0: 0.9, 1: None, 2: 1.1}), made("codes", {0: 1.0, 1: None}), made("fp16", {2: 1.2}))
    assert found.spread is None
    assert "deviations" not in str(found)
    assert [rows(found)["codes"][name] for name in COLUMNS[6:]] == ["", "2", ""]
    assert [rows(found)["fp16"][name] for name in COLUMNS[6:]] == ["+0.1000", "1", ""]


def test_rows_of_another_code_are_named(made, table):
    dense, codes = made("dense", {0: 1.0}), made("codes", {0: 1.0})
    assert table(dense, codes).mixture is None
    assert table(made("dense", {0: 1.0}, code=None), made("codes", {0: 1.0}, code=None)).mixture is None
    other = [*made("fp16", {0: 1.0}, code=None), *made("fp16", {1: 1.0}, code="b")]
    printed = str(table(dense, codes, other, made("late", {0: 1.0}, code="b", wire=1)))
    assert "Most rows: a; of another one: fp16 (b; unknown), late (b)." in printed


# ---- records -----------------------------------------------------------------------------------------------------


def test_record_keeps_code_and_is_found_without(modules, tmp_path):
    records, runs = modules("records", "runs")
    run = runs.Run(setting(runs), "codes", "method(codes)", 0.1, 0)
    outcome = runs.Outcome([runs.Point(5, 1.5, 2, 3)], 0.5, 4, "abc with numba 1")
    kept = records.Records(tmp_path)
    kept.add(run, outcome, 1.0)
    assert kept.find(run) == outcome
    file = tmp_path / "lm.jsonl"
    line = json.loads(file.read_text())
    assert line.pop("code") == "abc with numba 1"
    file.write_text(json.dumps(line) + "\n")  # as lines were before code was kept
    assert kept.find(run) == outcome._replace(code=None)
    assert kept.find(dataclasses.replace(run, seed=1)) is None


def test_revision(modules):
    [revision] = modules("revision")
    sources = {"sync/a.py": b"1", "sync/b.py": b"2"}
    assert revision.digest(sources) == revision.digest(dict(reversed(sources.items())))
    others = [{}, {"sync/a.py": b"1"}, {"sync/a.py": b"2", "sync/b.py": b"1"}, {"sync/c.py": b"1", "sync/b.py": b"2"}]
    assert len({revision.digest(other) for other in (sources, *others)}) == 5
    assert revision.revision() == revision.revision()


# ---- bytes -------------------------------------------------------------------------------------------------------


class MadeUp:
    """A collective of four as rank 1 sees it; the messages of the ranks have 1, 10, 100 and 1,000 bytes."""

    rank, size, sent_bytes = 1, 4, 0

    def allgather(self, message):
        return self._exchanged(message)

    def alltoall(self, messages):
        return self._exchanged(messages[0])

    def _exchanged(self, message):
        self.sent_bytes += message.size
        return [np.zeros(length, np.uint8) for length in (1, 10, 100, 1000)]

    def allreduce_(self, array): ...

    def broadcast_(self, array, root=0): ...

    def barrier(self): ...


ANNOUNCED = 3 * INTENT_BYTES  # by each of the others


@pytest.mark.parametrize(
    ("name", "given", "sent", "wire"),
    [
        ("allgather", np.zeros(10, np.uint8), 10, 1101),
        ("alltoall", [np.zeros(10, np.uint8)] * 4, 10, 1101 + 3 * 4 * 4),  # whose lengths come first
        ("allreduce_", np.zeros(10, np.float32), 0, 2 * 3 / 4 * 40),
        ("broadcast_", np.zeros(10, np.float32), 0, 40),
    ],
)
def test_traffic(modules, name, given, sent, wire):
    [traffic] = modules("traffic")
    world = MadeUp()
    world.sent_bytes = 7  # before it is counted
    counted = traffic.Traffic(world)
    assert counted.bytes() == (0, 0)
    getattr(world, name)(given)
    assert counted.bytes() == (sent, ANNOUNCED + wire)
    world.barrier()
    assert counted.bytes().wire == 2 * ANNOUNCED + wire


@pytest.mark.parametrize(("size", "wire"), [(1, 0), (2, 100), (4, 150), (16, 187.5)])
def test_ring(modules, size, wire):
    assert modules("traffic")[0].ring_bytes(100, size) == wire


# ---- the way, and the command --------------------------------------------------------------------------------------


class Still:
    """Learns nothing: its loss is the weight."""

    def batch(self, size, draw):
        return torch.zeros(size, 1), None

    def loss(self, output, target):
        return output.sum()

    def held_out_loss(self, module):
        return module.weight.item()


class Ahead(torch.optim.SGD):
    """Ranks agree on 1, 2, 3 after its steps, and then look ahead by 100 while others come; `is_ahead` says whether."""

    def __init__(self, parameters, is_ahead):
        super().__init__(parameters, lr=0.1)
        self.agreed, self.is_ahead = 0.0, is_ahead

    def step(self):
        self.agreed += 1.0
        self._set(self.agreed + 100.0 * self.is_ahead)

    def _set(self, value):
        nn.init.constant_(self.param_groups[0]["params"][0], value)

    def synchronise(self):
        self._set(self.agreed)

    def report(self):
        return SimpleNamespace(exchanges=int(self.agreed))

    def state_dict(self):
        return {"period": (torch.tensor([self.agreed]), 0, 10) if self.is_ahead else None}


@pytest.mark.parametrize("is_ahead", [False, True])
def test_points_on_the_way_are_those_of_the_agreed_weights(modules, is_ahead):
    loop, runs = modules("loop", "runs")
    run = runs.Run(setting(runs, schedule="constant"), "ahead", "method(ahead)", 0.1, 0)
    module = nn.Linear(1, 1, bias=False)
    result = loop.train(run, Still(), 0, module, Ahead(module.parameters(), is_ahead), lambda: None)
    assert [(mark.step, mark.loss) for mark in result.marks] == [(step, float(step)) for step in range(1, 6)]


def test_one_rank_is_refused(modules, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("study_command", STUDY / "__main__.py")
    monkeypatch.setitem(sys.modules, "plots", SimpleNamespace(draw=None))  # matplotlib takes seconds to load
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    with pytest.raises(SystemExit):
        command._parser().parse_args(["run", "--workload", "lm", "--ranks", "1"])
    assert "2 ranks or more are needed" in capsys.readouterr().err
    assert command._parser().parse_args(["run", "--workload", "lm", "--ranks", "2"]).ranks == 2
