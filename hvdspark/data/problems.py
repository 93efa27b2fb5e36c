"""What is wrong with rows that cannot be trained on: counted where they are, told as one sentence on the driver."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Problem", "ProblemKind", "explain", "gathered", "unequal_shapes"]

ProblemKind = Literal[
    "null", "not finite", "width", "shape", "dtype", "empty", "mask", "negative", "fraction", "decode", "parts",
    "foreign", "unreadable", "unlabelled",
]  # fmt: skip

# What is said of each kind, and the fix. {noun} is "column" or "array".
_TEXTS: dict[ProblemKind, tuple[str, str]] = {
    "null": (
        "{noun} {name!r} has nulls in {rows}",
        "drop those rows (df.na.drop(subset=[{name!r}])) or fill them",
    ),
    "not finite": (
        "{noun} {name!r} has NaN or infinity in {rows}",
        "filter those rows out or replace the values; numbers beyond 3.4e38 do not fit into float32",
    ),
    "width": (
        "{noun} {name!r} has arrays of unequal width ({detail}) in {rows}",
        "give every row the same number of values: pad, cut or filter them",
    ),
    "shape": (
        "{noun} {name!r} has rows of unequal shape ({detail}) in {rows}",
        "give every row the same shape: pad, cut or filter them",
    ),
    "dtype": (
        "{noun} {name!r} has numbers of different kinds ({detail}) in {rows}",
        "convert them to one kind with .astype",
    ),
    "empty": ("{noun} {name!r} has empty arrays in {rows}", "give every row at least one value"),
    "mask": (
        "{noun} {name!r} has other numbers than 0 and 1 in {rows}",
        "a mask says what counts (1) and what does not (0); weigh whole examples by a weight column",
    ),
    "negative": ("{noun} {name!r} has negative weights in {rows}", "weights are 0 or more"),
    "fraction": ("{noun} {name!r} has fractions in {rows}", "class indices are whole numbers"),
    "decode": (
        "{noun} {name!r} could not be decoded in {rows}",
        "the decode function said {detail}: it must return an array of numbers for every value",
    ),
    "parts": (
        "examples differ in what they consist of in {rows}: {detail}",
        "give all examples the same features, labels and masks",
    ),
    "foreign": (
        "objects of another class in {rows}: {detail}",
        "every element must be of one kind: DataSet, MultiDataSet, LabeledPoint or (label, vector)",
    ),
    "unreadable": (
        "{rows} could not be loaded: {detail}",
        "repair or remove them, or give loader= a function that reads them",
    ),
    "unlabelled": ("{rows} without labels", "training needs labels: give every DataSet its labels"),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Rows that cannot be trained on, all for one reason.

    Parameters
    ----------
    column
        Name of the column or array; empty where it is none of them.
    kind
        ``null``: a null, or a null inside an array; ``not finite``: NaN, infinity, or a number too large for float32;
        ``width`` and ``shape``: rows of unequal length or shape; ``dtype``: numbers of different kinds; ``empty``:
        arrays without a number; ``mask``: a mask of other numbers than 0 and 1; ``negative``: a weight below 0;
        ``fraction``: a class index that is no whole number; ``decode``: a decode function failed; ``parts``: some
        examples have a mask and others not; ``foreign``: an object of another class; ``unreadable``: a file that could
        not be loaded; ``unlabelled``: examples without labels.
    count
        Rows (files, of kind ``unreadable``) that are affected.
    first_row
        The first of them, counted from 0 in what was looked at: a batch, a partition, or the file that `place` names.
    detail
        What else is to be said, such as both shapes, or the text of an exception.
    place
        The file in which the first one lies; empty: rows do not come from files that were loaded one by one.
    """

    column: str
    kind: ProblemKind
    count: int
    first_row: int
    detail: str = ""
    place: str = ""


def unequal_shapes(
    column: str, count: int, first_row: int, expected: tuple[int, ...], found: tuple[int, ...]
) -> Problem:
    """Return the problem of rows that have another shape than those before them."""
    if len(expected) == len(found) == 1:
        return Problem(column, "width", count, first_row, f"{expected[0]} and {found[0]} values")
    return Problem(column, "shape", count, first_row, f"{list(expected)} and {list(found)}")


def gathered(problems: Iterable[tuple[int, Problem]]) -> list[Problem]:
    """Add up problems of the same column and kind; each comes with the number of rows before what it counts from."""
    found: dict[tuple[str, str], Problem] = {}
    for before, problem in problems:
        key = (problem.column, problem.kind)
        first = found.get(key)
        if first is None:
            found[key] = problem if problem.place else replace(problem, first_row=problem.first_row + before)
        else:
            found[key] = replace(first, count=first.count + problem.count)
    return list(found.values())


def explain(problem: Problem, where: str, *, noun: str = "column") -> str:
    """Return one sentence: the column, what is wrong, in how many rows, where, and the fix."""
    one = "file" if problem.kind == "unreadable" else "row"
    rows = f"1 {one}" if problem.count == 1 else f"{problem.count} {one}s"
    words = {"noun": noun, "name": problem.column, "rows": rows, "detail": problem.detail}
    what, fix = (text.format(**words) for text in _TEXTS[problem.kind])
    return f"{what} ({where}): {fix}"
