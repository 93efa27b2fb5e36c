"""What a plan says of one rank, step by step."""

from itertools import islice


def steps_of(plan, rank, start=0):
    """The rows that a rank takes in each step from one on, as (group, row); checks the counts on the way."""
    rows = ((int(g), int(r)) for block in plan.blocks(rank, start) for g, r in zip(*block, strict=True))
    steps = [list(islice(rows, plan.examples(rank, step))) for step in range(start, plan.num_steps)]
    assert [len(step) for step in steps] == [plan.examples(rank, step) for step in range(start, plan.num_steps)]
    assert next(rows, None) is None
    return steps
