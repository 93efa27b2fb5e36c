"""Looking through saved data sets: how many are whole and of the shapes expected, and which are not."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hvdspark import storage
from hvdspark.data.dataset import DataSet
from hvdspark.data.distribute import as_paths, list_paths, run_over
from hvdspark.data.multidataset import MultiDataSet
from hvdspark.errors import DataError, StorageError

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import SparkSession

__all__ = ["Shape", "ValidationResult", "validate_data_sets", "validate_multi_data_sets"]

Shape: TypeAlias = Sequence[int | None]
"""Lengths of the axes, that of the examples included; None, 0 or less: any."""

_Source: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | RDD[str]"
_Verdict = Literal["valid", "missing", "unreadable", "damaged", "missing_labels", "wrong_features", "wrong_labels"]
_INVALID = ("damaged", "missing_labels", "wrong_features", "wrong_labels")
_NAMED_PROBLEMS = 10  # a result names the first few, not a million


@dataclass(frozen=True)
class ValidationResult:
    """How many files are what. Each file counts once; the sum of two results is the result of both.

    Parameters
    ----------
    num_valid
        Whole, and of the shapes expected.
    num_missing
        Not there.
    num_unreadable
        The storage failed on reading; such files are never deleted, for they may be good.
    num_damaged
        Read, but no data set of this kind, or changed since they were saved.
    num_missing_labels
        Without the labels that were expected.
    num_wrong_features, num_wrong_labels
        Of another shape than expected, or more or fewer of them.
    num_deleted
        Of the invalid ones.
    problems
        Of the first few files: path, and what is wrong.
    """

    num_valid: int = 0
    num_missing: int = 0
    num_unreadable: int = 0
    num_damaged: int = 0
    num_missing_labels: int = 0
    num_wrong_features: int = 0
    num_wrong_labels: int = 0
    num_deleted: int = 0
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def num_invalid(self) -> int:
        """Files that were read and cannot be trained on."""
        return sum(getattr(self, f"num_{verdict}") for verdict in _INVALID)

    @property
    def num_total(self) -> int:
        """All files looked for."""
        return self.num_valid + self.num_missing + self.num_unreadable + self.num_invalid

    def __add__(self, other: "ValidationResult") -> "ValidationResult":
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return ValidationResult(**{**sums, "problems": sums["problems"][:_NAMED_PROBLEMS]})

    def __str__(self) -> str:
        lines = [f"{self.num_total} files: {self.num_valid} valid, {self.num_invalid} invalid"]
        for name in ("missing", "unreadable", *_INVALID, "deleted"):
            count = getattr(self, f"num_{name}")
            lines += [f"  {name.replace('_', ' ')}: {count}"] if count else []
        lines += [f"  {path}: {why}" for path, why in self.problems]
        more = self.num_total - self.num_valid - len(self.problems)
        return "\n".join([*lines, *([f"  and {more} more"] if more else [])])


def validate_data_sets(
    source: _Source,
    *,
    features_shape: Shape | None = None,
    labels_shape: Shape | None = None,
    needs_labels: bool = True,
    recursive: bool = True,
    delete_invalid: bool = False,
    spark: "SparkSession | None" = None,
) -> ValidationResult:
    """Look through files that `DataSet.save` wrote.

    Parameters
    ----------
    source
        A folder (its ``.safetensors`` files), a list of paths, or an RDD of them.
    features_shape, labels_shape
        What is expected, the axis of examples included: ``(-1, 784)``; None: any.
    needs_labels
        Whether a file without labels is invalid.
    recursive
        Look into the folders of a folder too.
    delete_invalid
        Delete what was read and is invalid.
    spark
        The session whose workers look through a folder or list, classic or Connect; None: this process does.

    Raises
    ------
    DataError
        Where there is no file to look for.
    """
    check = _Check("DataSet", _one(features_shape), _one(labels_shape), needs_labels)
    return _validate(source, check, spark, recursive=recursive, delete_invalid=delete_invalid)


def validate_multi_data_sets(
    source: _Source,
    *,
    features_shapes: Sequence[Shape | None] | None = None,
    labels_shapes: Sequence[Shape | None] | None = None,
    needs_labels: bool = True,
    recursive: bool = True,
    delete_invalid: bool = False,
    spark: "SparkSession | None" = None,
) -> ValidationResult:
    """Look through files that `MultiDataSet.save` wrote: one shape for each of the features or labels.

    The rest is as in `validate_data_sets`.
    """
    shapes = [None if each is None else tuple(each) for each in (features_shapes, labels_shapes)]
    check = _Check("MultiDataSet", shapes[0], shapes[1], needs_labels)
    return _validate(source, check, spark, recursive=recursive, delete_invalid=delete_invalid)


@dataclass(frozen=True)
class _Check:
    """What is expected of a file; travels to the workers."""

    kind: Literal["DataSet", "MultiDataSet"]
    features_shapes: tuple[Shape | None, ...] | None
    labels_shapes: tuple[Shape | None, ...] | None
    needs_labels: bool

    def look_through(self, paths: Iterator[str]) -> Iterator[str]:
        """Return one line: the result, and the paths of the invalid files."""
        total, invalid = ValidationResult(), []
        for path in paths:
            verdict, why = self._judge(path)
            found: dict[str, Any] = {f"num_{verdict}": 1, "problems": ((path, why),) if why else ()}
            total += ValidationResult(**found)
            if verdict in _INVALID:
                invalid.append(path)
        yield json.dumps({"result": asdict(total), "invalid": invalid})

    def _judge(self, path: str) -> tuple[_Verdict, str]:
        try:
            if not storage.exists(path):
                return "missing", "is not there"
            data: DataSet | MultiDataSet = (DataSet if self.kind == "DataSet" else MultiDataSet).load(path)
        except StorageError as error:
            return self._why_not(path, str(error))
        features, labels = (_listed(data.features), _listed(data.labels))
        if self.needs_labels and not labels:
            return "missing_labels", "has no labels"
        wrong = _mismatch("features", features, self.features_shapes)
        if wrong:
            return "wrong_features", wrong
        wrong = _mismatch("labels", labels, self.labels_shapes) if labels else ""
        return ("wrong_labels", wrong) if wrong else ("valid", "")

    def _why_not(self, path: str, why: str) -> tuple[_Verdict, str]:
        try:
            storage.checksum(path)  # a file that can be read from end to end is itself to blame, not the storage
        except StorageError as error:
            return "unreadable", str(error)
        return "damaged", why


def _validate(
    source: Any, check: _Check, spark: "SparkSession | None", *, recursive: bool, delete_invalid: bool
) -> ValidationResult:
    if isinstance(source, str | os.PathLike):
        paths: Any = list_paths(source, recursive=recursive, extensions=["safetensors"])
        if not paths:
            raise DataError(f"{source} holds no file whose name ends with .safetensors: name others in a list")
    else:
        paths = as_paths(source)
    lines = [json.loads(line) for line in run_over(paths, check.look_through, spark)]
    total = ValidationResult()
    for line in lines:
        problems = tuple((path, why) for path, why in line["result"].pop("problems"))
        total += ValidationResult(**line["result"], problems=problems)
    if not total.num_total:
        raise DataError("there is no file to look for")
    if delete_invalid:
        # Afterwards, and by name: a task that runs again counts what it counted before.
        invalid = [path for line in lines for path in line["invalid"]]
        total += ValidationResult(num_deleted=len(run_over(invalid, _delete, spark)))
    return total


def _delete(paths: Iterator[str]) -> Iterator[str]:
    for path in paths:
        storage.remove_tree(path)
        yield path


def _one(shape: Shape | None) -> tuple[Shape | None, ...] | None:
    return None if shape is None else (tuple(shape),)


def _listed(arrays: Any) -> list[Any]:
    if arrays is None:
        return []
    return list(arrays) if isinstance(arrays, tuple) else [arrays]


def _mismatch(name: str, arrays: list[Any], expected: tuple[Shape | None, ...] | None) -> str:
    """Say what is not as expected, or nothing."""
    if expected is None:
        return ""
    if len(arrays) != len(expected):
        return f"has {len(arrays)} {name}, {len(expected)} were expected"
    for array, shape in zip(arrays, expected, strict=True):
        given = tuple(array.shape)
        fits = shape is None or (
            len(given) == len(shape)
            and all(want is None or want <= 0 or want == have for have, want in zip(given, shape, strict=True))
        )
        if not fits:
            return f"has {name} of shape {list(given)}, {list(shape or ())} was expected"
    return ""
