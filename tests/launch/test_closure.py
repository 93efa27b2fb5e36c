"""Which calls travel, and by what."""

import functools
import importlib
import json
import subprocess
import sys
import textwrap
import threading

import pytest

from hvdspark_launch.closure import dump_call, load_call

FACTOR = 3


class Thing:
    def __init__(self, value):
        self.value = value

    def times(self, by):
        return self.value * by * FACTOR


def triple(value):
    return FACTOR * value


def in_a_fresh_python(call, tmp_path):
    """Load and run a call where this test's module cannot be imported."""
    (tmp_path / "call").write_bytes(call)
    code = (
        "import sys; from hvdspark_launch.closure import load_call; print(load_call(open(sys.argv[1], 'rb').read())())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "call"], capture_output=True, text=True, cwd=tmp_path, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (triple, (4,)),
        (lambda value: triple(value) + 0, (4,)),
        (functools.partial(triple, 4), ()),
        (Thing(2).times, (2,)),
        (lambda thing: thing.times(2), (Thing(2),)),
        (lambda things: things["a"][0].times(2), ({"a": [Thing(2)]},)),
    ],
    ids=["function", "lambda", "partial", "method", "argument", "deep"],
)
def test_what_a_rank_cannot_import_travels_by_value(fn, args, tmp_path):
    assert in_a_fresh_python(dump_call(fn, args, None), tmp_path) == "12"


def test_a_loose_module_travels_with_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "loose_inner.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "loose_outer.py").write_text(
        "import loose_inner\nclass Net:\n    def run(self, x):\n        return loose_inner.double(x) + 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("loose_outer").Net()
    call = dump_call(lambda things: things[0].run(5), ([net],), None)
    (tmp_path / "elsewhere").mkdir()
    assert in_a_fresh_python(call, tmp_path / "elsewhere") == "12"


def test_what_is_installed_travels_by_name():
    call = dump_call(textwrap.indent, ("x", " "), None)
    assert b"textwrap" in call
    assert len(call) < 200
    assert len(dump_call(pytest.raises, (), None)) < 200


def test_nothing_stays_registered():
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    dump_call(triple, (1,), None)
    assert cloudpickle.list_registry_pickle_by_value() == before


def test_rows_stand_before_the_arguments():
    def show(*args, **kwargs):
        return json.dumps([args, kwargs])

    assert load_call(dump_call(show, (1, 2), {"k": 3}))("rows") == '[["rows", 1, 2], {"k": 3}]'


def test_what_cannot_be_sent_is_named():
    lock = threading.Lock()

    def holds_a_lock():
        return lock

    with pytest.raises(TypeError, match=r"holds_a_lock or its arguments cannot be sent to the ranks: .*lock"):
        dump_call(holds_a_lock, (), None)
