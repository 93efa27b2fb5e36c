"""The tables of docs/coming-from-dl4j.md: their lines, and the names that their calls know."""

import ast
import copy
import csv
import re
from pathlib import Path
from typing import NamedTuple

from contracts.pages import text_of

_SEED = Path(__file__).parents[1] / "docs" / "seed_api.tsv"
_RENAMED = {
    "debugLongerIterations": "debug_longer_iterations_ms",
    "repartionData": "repartition",
    "repartitionData": "repartition",
    "storageLevelStreams": "storage_level",
    "updatesThreshold": "threshold_algorithm",
    "workerPeriodicGCFrequency": "worker_periodic_gc_frequency_ms",
    "workerTogglePeriodicGC": "worker_toggle_periodic_gc",
}
_ROW = re.compile(r"^\| `(\w+\(.*?\))`( \(deprecated\))? \| (`.+?`|missing)(?:<br>(.*?))? \|$", re.MULTILINE)


class Line(NamedTuple):
    """A line of a table: the method of Deeplearning4j, the call here, and the note."""

    cls: str
    signature: str
    is_deprecated: bool
    call: str
    note: str

    @property
    def method(self):
        return self.signature.partition("(")[0]

    @property
    def option(self):
        """The name that a method of a builder has as a keyword argument."""
        return _RENAMED.get(self.method) or re.sub(r"(?<!^)([A-Z])", r"_\1", self.method).lower()

    @property
    def owner(self):
        """The name that the call begins with."""
        return self.call.partition(".")[0]

    def __str__(self):
        return f"{self.cls}.{self.signature}"


def read_lines(page):
    """All lines of the tables of methods; their sections are named for the classes."""
    return [
        Line(section.partition("\n")[0], signature, bool(deprecated), call.strip("`"), note)
        for section in text_of(page).split("\n## ")[1:]
        for signature, deprecated, call, note in _ROW.findall(section)
    ]


def read_seed():
    """The (class, signature, whether deprecated) of each method that the page has a line for."""
    with _SEED.open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            java = row["java_signature"]
            yield row["class"], java[java.index(f"{row['method']}(") :], row["deprecated"] == "yes"


class Calls:
    """Evaluates calls, each once, with the names of a page's programs.

    Parameters
    ----------
    known
        The names.
    """

    def __init__(self, known):
        self.known = known
        self.found = {}

    def evaluate(self, call):
        """Return what a call returns, or what an assignment has set: on a copy, since others go on using the object."""
        if call not in self.found:
            statement = ast.parse(call).body[0]
            is_set = isinstance(statement, ast.Assign)
            self.found[call] = self._assigned(call, statement) if is_set else eval(call, self.known)
        return self.found[call]

    def _assigned(self, call, statement):
        target, value = ast.unparse(statement.targets[0]), ast.unparse(statement.value)
        owner = target.partition(".")[0]
        names = {**self.known, owner: copy.copy(self.known[owner])}
        wanted, before = eval(value, names), eval(target, names)
        exec(call, names)
        found = eval(target, names)
        assert found == wanted != before, f"{call} sets nothing, or what was there"
        return found

    def keywords(self, call):
        """The keyword arguments of a call."""
        return {each.arg: eval(ast.unparse(each.value), self.known) for each in ast.parse(call).body[0].value.keywords}

    def argument(self, call):
        """The one positional argument of a call."""
        (given,) = ast.parse(call).body[0].value.args
        return eval(ast.unparse(given), self.known)
