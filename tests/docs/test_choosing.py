"""The program of docs/choosing.md runs as it stands there, and sets what `recommended` sets."""

import ast

from contracts.pages import programs, public, run
from hvdspark import SharedTrainingMaster


def test_the_program_runs_and_sets_what_is_recommended():
    (program,) = programs("choosing.md")
    run(program, "choosing.md")
    (call,) = (
        node
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SharedUpdates"
    )
    given = {each.arg: eval(ast.unparse(each.value), public()) for each in call.keywords}  # our own page
    recommended = SharedTrainingMaster.recommended(32).sharing()
    plain = SharedTrainingMaster(batch_size_per_worker=32).sharing()
    assert given == {name: value for name, value in vars(recommended).items() if value != vars(plain)[name]}
