"""What a staged data set is: its files, their rows and checksums, and the shape of a row."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from hvdspark import storage
from hvdspark.data.columns import LabelDtype
from hvdspark.errors import StorageError

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "Manifest", "StagedFile"]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

_FILE_NAME = re.compile(r"part-\d{5,9}\.parquet")  # names come from a file: anything else could lead out of the folder
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file of a staged data set.

    Parameters
    ----------
    name
        File name in the folder of the manifest.
    rows_per_group
        Rows of each row group.
    num_bytes
        Length of the file.
    checksum
        Its SHA-256.
    """

    name: str
    rows_per_group: tuple[int, ...]
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """The facts about a staged data set. It is written last: a folder without it holds no data set.

    Parameters
    ----------
    feature_columns, label_column
        Names of the columns that the rows were made from.
    feature_width
        Numbers in a row's features, which are ``[width] float32``.
    label_dtype
        ``int64`` or ``float32``.
    label_width
        Numbers in a row's label, ``[width] float32``; None: the label is one number.
    files
        Ordered by name; row groups are counted through them in this order.
    """

    feature_columns: tuple[str, ...]
    label_column: str
    feature_width: int
    label_dtype: LabelDtype
    label_width: int | None
    files: tuple[StagedFile, ...]

    @cached_property
    def rows_per_group(self) -> tuple[int, ...]:
        """Rows of each row group, through all files: what `EpochPlan` is made from."""
        return tuple(rows for file in self.files for rows in file.rows_per_group)

    @cached_property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return sum(self.rows_per_group)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all these facts: equal exactly where the staged data is the same, wherever it lies."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @cached_property
    def _places(self) -> tuple[tuple[int, int], ...]:
        return tuple(
            (number, group) for number, file in enumerate(self.files) for group in range(len(file.rows_per_group))
        )

    def locate(self, group: int) -> tuple[StagedFile, int]:
        """Return the file that holds a row group of the data set, and the group's number in that file."""
        number, index = self._places[group]
        return self.files[number], index

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write the manifest into the folder of its files."""
        storage.write_json(storage.join(directory, MANIFEST_NAME), {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> "Manifest":
        """Read the manifest of a staged data set.

        Raises
        ------
        StorageError
            Where there is none, or it is of another format version, or something in it is missing or impossible.
        """
        path = storage.join(directory, MANIFEST_NAME)
        if not storage.exists(path):
            raise StorageError(f"{directory} holds no staged data set ({MANIFEST_NAME} is not there): stage it first")
        facts = storage.read_json(path)
        version = facts.get("format_version") if isinstance(facts, dict) else None
        if version != FORMAT_VERSION:
            raise StorageError(f"{path}: format version {version!r}, this release reads {FORMAT_VERSION}: stage again")
        try:
            manifest = cls._from_facts(facts)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path} is damaged, stage again: {type(error).__name__}: {error}") from error
        return manifest

    @classmethod
    def _from_facts(cls, facts: Mapping[str, Any]) -> "Manifest":
        dtype, label_width = facts["label_dtype"], facts["label_width"]
        if dtype not in ("int64", "float32"):
            raise ValueError(f"label_dtype {dtype!r} is neither int64 nor float32")
        files = tuple(_file_from_facts(file) for file in facts["files"])
        if not files or [file.name for file in files] != sorted({file.name for file in files}):
            raise ValueError("files must be listed once each, in order")
        return cls(
            feature_columns=tuple(str(name) for name in facts["feature_columns"]),
            label_column=str(facts["label_column"]),
            feature_width=_count(facts["feature_width"]),
            label_dtype=dtype,
            label_width=None if label_width is None else _count(label_width),
            files=files,
        )


def _file_from_facts(facts: Mapping[str, Any]) -> StagedFile:
    name, digest = facts["name"], facts["checksum"]
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a staged file")
    if not _CHECKSUM.fullmatch(digest):
        raise ValueError(f"{digest!r} is no SHA-256")
    rows = tuple(_count(number) for number in facts["rows_per_group"])
    return StagedFile(name=name, rows_per_group=rows, num_bytes=_count(facts["num_bytes"]), checksum=digest)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is no positive whole number")
    return value
