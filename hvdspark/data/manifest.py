"""What a staged data set is: its files, their rows and checksums, and the shape of a row."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from hvdspark import storage
from hvdspark.data.fields import DTYPES, ROLES, Field, Role
from hvdspark.errors import StorageError

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "Manifest", "StagedFile", "part_name", "part_number"]

FORMAT_VERSION = 3
MANIFEST_NAME = "manifest.json"

# Names come from a file: anything else could lead out of the folder.
_FILE_NAME = re.compile(r"(?:\d{5,9}/)?part-(\d{5,9})\.parquet")
_FILES_PER_FOLDER = 1000  # some file systems have a limit (HDFS: 2 ** 20), and all are slow long before it
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


def part_name(partition: int) -> str:
    """Return the name of a partition's file: the first thousand beside the manifest, each further one in a folder."""
    name = f"part-{partition:05d}.parquet"
    return name if partition < _FILES_PER_FOLDER else f"{partition // _FILES_PER_FOLDER:05d}/{name}"


def part_number(name: str) -> int | None:
    """Return the partition whose file has that name; None: it is no name of one."""
    match = _FILE_NAME.fullmatch(name)
    number = None if match is None else int(match[1])
    return number if number is not None and part_name(number) == name else None


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file of a staged data set.

    Parameters
    ----------
    name
        Name below the folder of the manifest (`part_name`).
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
    fields
        What a row consists of, in the order of the columns of the files.
    files
        Ordered by partition; row groups are counted through them in this order.
    source
        What the data were made from and how, as a hash (`hvdspark.data.sources`); empty: nothing that could be told
        again.
    """

    fields: tuple[Field, ...]
    files: tuple[StagedFile, ...]
    source: str = ""

    def of(self, role: Role) -> tuple[Field, ...]:
        """Return the fields of a role."""
        return tuple(field for field in self.fields if field.role == role)

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
        """SHA-256 of fields and files: equal exactly where the staged data is the same, wherever it lies."""
        facts = asdict(replace(self, source=""))
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

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

    def check_files(self, directory: str | os.PathLike[str]) -> None:
        """Make sure that all files are there, whole and unchanged: their SHA-256 is compared.

        Raises
        ------
        StorageError
            With the first file that is not.
        """
        for file in self.files:
            path = storage.join(directory, file.name)
            if storage.checksum(path) != file.checksum:
                raise StorageError(f"{path} has changed since it was staged: stage the data again")

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
        fields = tuple(_field_from_facts(field) for field in facts["fields"])
        if not fields or len({field.key for field in fields}) < len(fields):
            raise ValueError("fields must be listed once each")
        files = tuple(_file_from_facts(file) for file in facts["files"])
        numbers = [part_number(file.name) or 0 for file in files]
        if not files or numbers != sorted(set(numbers)):
            raise ValueError("files must be listed once each, in order")
        return cls(fields=fields, files=files, source=str(facts["source"]))


def _field_from_facts(facts: Mapping[str, Any]) -> Field:
    role, dtype, index = facts["role"], facts["dtype"], facts["index"]
    if role not in ROLES or dtype not in DTYPES:
        raise ValueError(f"a field cannot be a {role!r} of {dtype!r}")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError(f"{index!r} is no number of a field")
    shape = tuple(_count(number) for number in facts["shape"])
    return Field(role, index, str(facts["name"]), dtype, shape, str(facts["argument"]))


def _file_from_facts(facts: Mapping[str, Any]) -> StagedFile:
    name, digest = facts["name"], facts["checksum"]
    if part_number(name) is None:
        raise ValueError(f"{name!r} is no name of a staged file")
    if not _CHECKSUM.fullmatch(digest):
        raise ValueError(f"{digest!r} is no SHA-256")
    rows = tuple(_count(number) for number in facts["rows_per_group"])
    return StagedFile(name=name, rows_per_group=rows, num_bytes=_count(facts["num_bytes"]), checksum=digest)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is no positive whole number")
    return value
