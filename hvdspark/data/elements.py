"""Rows out of objects: DataSets, MLlib's labelled points, and files that are loaded one by one. Runs on the workers."""

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.data.dataset import DataSet
from hvdspark.data.examples import Examples
from hvdspark.data.fields import Field, Role
from hvdspark.data.multidataset import MultiDataSet
from hvdspark.data.problems import Problem
from hvdspark.data.rows import Rows
from hvdspark.data.values import as_mask, as_stored, not_finite

__all__ = ["Loader", "PointLabels", "element_rows", "file_rows", "load_examples"]

Loader = Callable[[str], Examples]
PointLabels = Literal["class", "value"]
"""What the label of a point is: the index of a class, or a real target."""

_POINTS_AT_A_TIME = 1024
_ROLES: dict[str, Role] = {"features": "feature", "labels": "label"}
_ROLES |= {"features_mask": "features_mask", "labels_mask": "labels_mask"}
_PART = re.compile(r"(features|labels)(_mask)?(?:_(\d+))?")


def element_rows(
    elements: Iterable[Any], *, loader: Loader | None = None, points: PointLabels | None = None
) -> Iterator[Rows]:
    """Yield the rows of the elements of an RDD's partition.

    Parameters
    ----------
    elements
        DataSets, MultiDataSets, MLlib's labelled points, (label, vector) pairs, or paths.
    loader
        Reads a path; None: what `DataSet.save` and `MultiDataSet.save` wrote.
    points
        What the labels of points are, where nothing but points is wanted; None: anything goes, and labels are values.
    """
    for kind, run in itertools.groupby(elements, functools.partial(_kind, only_points=points is not None)):
        if kind == "examples":
            for examples in run:
                yield example_rows(examples)
        elif kind == "point":
            while taken := list(itertools.islice(run, _POINTS_AT_A_TIME)):
                yield _point_rows(taken, points or "value")
        elif kind == "path":
            yield from file_rows(run, loader)
        else:
            names = [type(element).__name__ for element in run]
            yield Rows(
                len(names), problems=(Problem("", "foreign", len(names), 0, f"{names[0]} is none of the known"),)
            )


def file_rows(paths: Iterable[str | os.PathLike[str]], loader: Loader | None = None) -> Iterator[Rows]:
    """Yield the rows of files, each loaded whole; what a loader raises becomes a problem that names the file."""
    for given in paths:
        path = os.fspath(given)
        try:
            examples = (loader or load_examples)(path)
            if not isinstance(examples, Examples):
                raise TypeError(f"the loader returned a {type(examples).__name__}, not a DataSet or MultiDataSet")
        except Exception as error:  # noqa: BLE001  # whatever a user's loader raises is told with the file
            text = str(error) if path in str(error) else f"{path}: {type(error).__name__}: {error}"
            yield Rows(0, problems=(Problem("", "unreadable", 1, 0, text, path),))
        else:
            yield example_rows(examples, path)


def load_examples(path: str) -> Examples:
    """Read a file that `DataSet.save` or `MultiDataSet.save` wrote.

    Raises
    ------
    StorageError
        Where it cannot be read, holds something else, or has changed.
    """
    kind = storage.read_metadata(path).get("kind", "")
    return MultiDataSet.load(path) if kind == "hvdspark.MultiDataSet" else DataSet.load(path)


def example_rows(examples: Examples, place: str = "") -> Rows:
    """Return the rows of a DataSet or MultiDataSet, or what is wrong with them."""
    num_rows = len(examples)
    fields, arrays, problems = [], [], list[Problem]()
    for name, part in examples.parts().items():
        match = _PART.fullmatch(name)
        assert match is not None, name
        role = _ROLES[match[1] + (match[2] or "")]
        values, problem = _checked(_as_numpy(part), name, role)
        if problem is not None or values is None:
            problems += [problem] if problem else []
            continue
        dtype: Any = values.dtype.name
        fields.append(Field(role, int(match[3] or 0), name, dtype, tuple(values.shape[1:])))
        arrays.append(values)
    if not any(name.startswith("labels") for name in examples.parts()):
        problems.append(Problem("labels", "unlabelled", num_rows, 0))
    if problems and num_rows:
        return Rows(num_rows, problems=tuple(problems), place=place)
    return Rows(num_rows, tuple(fields), tuple(arrays), place=place)


def _checked(values: NDArray[Any], name: str, role: Role) -> tuple[NDArray[Any] | None, Problem | None]:
    try:
        values = as_stored(values)
    except TypeError as error:
        return None, Problem(name, "dtype", len(values), 0, str(error))
    if not len(values):
        return values, None
    if not values.size:
        return None, Problem(name, "empty", len(values), 0)
    if role in ("features_mask", "labels_mask"):
        return as_mask(values, name)
    if role == "label" and values.dtype.kind in "bu":
        values = values.astype(np.int64)
    problem = not_finite(values, name)
    return (None, problem) if problem else (values, None)


def _as_numpy(part: Any) -> NDArray[Any]:
    if isinstance(part, np.ndarray):
        return part
    tensor = part.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    return array


def _point_rows(points: list[Any], labels: PointLabels) -> Rows:
    pairs = [(point.label, point.features) if _is_labeled_point(point) else tuple(point) for point in points]
    vectors = [
        np.asarray(vector.toArray() if hasattr(vector, "toArray") else vector, np.float64) for _, vector in pairs
    ]
    width = vectors[0].shape
    odd = [row for row, vector in enumerate(vectors) if vector.shape != width]
    if odd:
        detail = f"{width[0]} and {vectors[odd[0]].shape[0]} values"
        return Rows(len(points), problems=(Problem("features", "width", len(odd), odd[0], detail),))
    given = np.array([label for label, _ in pairs], np.float64)
    checked = [_checked(np.stack(vectors), "features", "feature"), _checked(given, "labels", "label")]
    problems = [problem for _, problem in checked if problem is not None]
    if labels == "class" and not problems and (fractions := given != np.floor(given)).any():
        problems.append(Problem("labels", "fraction", int(fractions.sum()), int(np.argmax(fractions))))
    if problems:
        return Rows(len(points), problems=tuple(problems))
    target = given.astype(np.int64 if labels == "class" else np.float32)
    matrix = np.stack(vectors).astype(np.float32)
    fields = (
        Field("feature", 0, "features", "float32", matrix.shape[1:]),
        Field("label", 0, "labels", "int64" if labels == "class" else "float32", ()),
    )
    return Rows(len(points), fields, (matrix, target))


def _kind(element: Any, *, only_points: bool) -> str:
    if _is_labeled_point(element) or _is_pair(element):
        return "point"
    if only_points:
        return "foreign"
    if isinstance(element, Examples):
        return "examples"
    return "path" if isinstance(element, str | os.PathLike) else "foreign"


def _is_labeled_point(element: Any) -> bool:
    module = sys.modules.get("pyspark.mllib.regression")  # where it was never imported, nothing is a LabeledPoint
    return module is not None and isinstance(element, module.LabeledPoint)


def _is_pair(element: Any) -> bool:
    if not isinstance(element, tuple) or len(element) != 2 or not isinstance(element[0], int | float | np.number):
        return False
    vector = element[1]
    return hasattr(vector, "toArray") or np.ndim(vector) == 1
