"""An export directory: staged data that stay, and that fits share without waiting for each other.

Each fit stages into folders of its own, so that fits at one time, on one host or on many, never write to the same file
and need no lock, which object stores do not have. What is whole is published: a small file, named after what the data
are made from, names its folders. Who comes second uses what is published, and removes what it staged itself.

While a fit stages, a note says which folders are being written, and by which process. The next fit on that host
removes what a killed one left. What a process of another host left cannot be told from work under way, and stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hvdspark import storage
from hvdspark.data import Manifest
from hvdspark.errors import StorageError

__all__ = ["ExportDirectory"]

_LOG = logging.getLogger(__name__)
_DIGITS = 16  # of an identity, in names


class ExportDirectory:
    """A folder of staged data sets, found by what they are made from.

    Parameters
    ----------
    path : str
        Path or URL that the driver and all workers reach; it need not be there yet.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def data_set(
        self, name: str, identity: str, num_parts: int, stage: Callable[[list[str]], list[Manifest]]
    ) -> tuple[list[Manifest], list[str]]:
        """Return a staged data set and its folders: what was published before, where it is whole, or a new one.

        Parameters
        ----------
        name : str
            Name of the source, for the log.
        identity : str
            Hash of what the data are made from; empty where that cannot be told: it is then staged anew each time.
        num_parts : int
            How many folders it has: one, or two where rows are held back for validation.
        stage : callable
            Stages into new folders.

        Raises
        ------
        StorageError
            If the directory cannot be used; and what `stage` raises, of which nothing is left then.
        """
        self._remove_leftovers()
        found = self._find(identity, num_parts, repair=True)
        if found is not None:
            _LOG.info("%s was staged before: %s is used again", name, found[1][0])
            return found
        with self._new_folders(identity, num_parts) as places:
            manifests = stage(places)
        # Only now, without the note: folders that are published never stand in one, which says that they may go.
        other = self._find(identity, num_parts, repair=False)
        if other is None:
            self._publish(identity, places)
            return manifests, places
        _LOG.info("%s was staged by another fit meanwhile: %s is used", name, other[1][0])
        for place in places:
            storage.remove_tree(place)
        return other

    def _find(self, identity: str, num_parts: int, *, repair: bool) -> tuple[list[Manifest], list[str]] | None:
        """Return what is published, where it is whole; what is damaged is removed if `repair` says so."""
        entry = self._entry(identity)
        if not identity or not storage.exists(entry):
            return None
        places: list[str] = []
        try:
            places = self._folders_in(storage.read_json(entry), entry, num_parts)
            manifests = [Manifest.read(place) for place in places]
            for place, manifest in zip(places, manifests, strict=True):
                manifest.check_files(place)
        except StorageError as error:
            if repair:
                _LOG.info("%s is staged again: %s", places[0] if places else entry, error)
                for path in [entry, *places]:  # the entry first: nobody shall find folders that go
                    storage.remove_tree(path)
            return None
        return (manifests, places) if all(each.source == identity for each in manifests) else None

    def _publish(self, identity: str, places: list[str]) -> None:
        if identity:
            storage.write_json(self._entry(identity), {"folders": [place.rpartition("/")[2] for place in places]})

    @contextlib.contextmanager
    def _new_folders(self, identity: str, num_parts: int) -> Iterator[list[str]]:
        """Name folders for the length of a block; what a process that dies in it leaves is found by its note."""
        label = f"{identity[:_DIGITS]}-{secrets.token_hex(4)}" if identity else secrets.token_hex(8)
        places = [self._below(f"staged-{label}{part}") for part in ("", "-validation")[:num_parts]]
        storage.make_directories(self._path)
        note = self._below(f"staging-{label}.json")
        names = [place.rpartition("/")[2] for place in places]
        storage.write_json(note, {"host": _host(), "process": os.getpid(), "folders": names})
        try:
            yield places
        finally:
            storage.remove_tree(note)

    def _remove_leftovers(self) -> None:
        for note in storage.list_files(self._path):
            if not note.rpartition("/")[2].startswith("staging-"):
                continue
            try:
                facts = storage.read_json(note)
                places = self._folders_in(facts, note)
            except StorageError:
                if storage.exists(note):  # else its fit is done now
                    raise
                continue
            if _is_dead(facts):
                _LOG.info("%s was left by a fit that was killed: it is removed", places[0])
                for path in [*places, note]:
                    storage.remove_tree(path)

    def _folders_in(self, facts: Any, file: str, num_parts: int | None = None) -> list[str]:
        names = facts.get("folders") if isinstance(facts, dict) else None
        if (
            not isinstance(names, list)
            or not names
            or (num_parts is not None and len(names) != num_parts)
            or not all(isinstance(name, str) and name.startswith("staged-") and "/" not in name for name in names)
        ):
            raise StorageError(f"{file} is damaged: it names no folders of staged data; remove it")
        return [self._below(name) for name in names]

    def _entry(self, identity: str) -> str:
        return self._below(f"staged-{identity[:_DIGITS]}.json")

    def _below(self, name: str) -> str:
        return storage.join(self._path, name)


def _host() -> str:
    """Name this host, and where process numbers count: containers may have its name, but numbers of their own."""
    numbers = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {numbers.readlink()}" if numbers.is_symlink() else socket.gethostname()


def _is_dead(facts: dict[str, Any]) -> bool:
    """Tell whether the process of a note is known to be gone."""
    import psutil

    process = facts.get("process")
    return facts.get("host") == _host() and isinstance(process, int) and not psutil.pid_exists(process)
