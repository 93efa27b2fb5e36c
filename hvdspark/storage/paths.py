"""Paths and URLs: which file system they are on, what is there, making and removing folders."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hvdspark.errors import StorageError

__all__ = [
    "exists",
    "is_local",
    "join",
    "list_files",
    "local_path",
    "make_directories",
    "make_folder",
    "remote_file_system",
    "remove_tree",
    "storage_errors",
    "version",
]


def is_local(path: str | os.PathLike[str]) -> bool:
    """Tell whether the path is a plain path or a ``file:`` URL."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)", os.fspath(path))
    if match is None or match[1].lower() == "file":
        return True
    if match[2] == "/":
        raise StorageError(f"{path}: write it as {match[1]}:// and a host or bucket, or as a plain path")
    return False


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a local file or folder, without ``file:``.

    Raises
    ------
    StorageError
        Where the path is a URL of another kind.
    """
    text = os.fspath(path)
    if not is_local(text):
        raise StorageError(f"{text}: this works on local paths only")
    match = re.match(r"file:(?://(?P<host>[^/]*)(?=/))?(?P<path>/.*)", text, re.IGNORECASE)
    if match is not None:
        if match["host"] not in (None, "", "localhost"):
            raise StorageError(f"{path} is on another host ({match['host']}): give a path of this one")
        text = "/" + match["path"].lstrip("/")
    return Path(text)


def join(path: str | os.PathLike[str], *parts: str) -> str:
    """Return a path or URL below another one.

    Raises
    ------
    StorageError
        Where a part is empty or absolute or climbs out with ``..``: names read from a file stay inside their folder.
    """
    for part in parts:
        if not part or part.startswith("/") or ".." in part.split("/") or "\\" in part or "\0" in part:
            raise StorageError(f"{part!r} is no name below {path}: absolute names, '..' and back-slashes are refused")
    text = os.fspath(path)
    return "/".join([text.rstrip("/") if text.strip("/") else "", *parts])


def exists(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file or folder is there."""
    with storage_errors("look for", path):
        if is_local(path):
            return local_path(path).exists()
        file_system, name = remote_file_system(path)
        return bool(file_system.exists(name))


def make_directories(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it; nothing happens where it is there, or where the store knows no folders."""
    with storage_errors("make the folder", path):
        if is_local(path):
            local_path(path).mkdir(parents=True, exist_ok=True)
        else:
            file_system, name = remote_file_system(path)
            file_system.makedirs(name, exist_ok=True)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make one folder in a folder that is there; nothing happens where it is there itself.

    For a task that may outlive its job: on file systems that know folders it cannot bring a removed one back.
    """
    with storage_errors("make the folder", path):
        if is_local(path):
            local_path(path).mkdir(exist_ok=True)
        else:
            file_system, name = remote_file_system(path)
            with contextlib.suppress(FileExistsError):
                file_system.mkdir(name, create_parents=False)


def version(path: str | os.PathLike[str]) -> str:
    """Return a text that changes with a file: its length, and when it was last changed, as its file system tells."""
    with storage_errors("look at", path):
        if is_local(path):
            facts = local_path(path).stat()
            return f"{facts.st_size} {facts.st_mtime_ns}"
        file_system, name = remote_file_system(path)
        info = file_system.info(name)
        known = ("size", "mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag")
        return " ".join(f"{key}={info[key]}" for key in known if key in info)


def list_files(path: str | os.PathLike[str], *, recursive: bool = False) -> list[str]:
    """Return the files in a folder, sorted, each as `path` joined with its name; a folder that is not there has none.

    Names that start with a dot are left out: half-written files have such names.
    """
    with storage_errors("list", path):
        if is_local(path):
            root = local_path(path)
            found = root.rglob("*") if recursive else root.glob("*")
            names = [file.relative_to(root).as_posix() for file in found if file.is_file()]
        else:
            file_system, root_name = remote_file_system(path)
            file_system.invalidate_cache()  # other processes write there: a listing from before is of no use
            there = (
                file_system.find(root_name, maxdepth=None if recursive else 1) if file_system.exists(root_name) else []
            )
            names = [name.strip("/").removeprefix(root_name.strip("/")).lstrip("/") for name in there]
            names = [name for name in names if name]  # a file is found in itself
    return [join(path, name) for name in sorted(names) if not any(part.startswith(".") for part in name.split("/"))]


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a file, or a folder with all that is in it; nothing happens where it is not there."""
    with storage_errors("remove", path):
        if not is_local(path):
            file_system, name = remote_file_system(path)
            if not name.strip("/"):
                raise StorageError(f"{path}: a whole store is not removed")
            if file_system.exists(name):
                file_system.rm(name, recursive=True)
            return
        place = local_path(path)
        if place.resolve() in (Path.home(), Path(place.resolve().anchor)):
            raise StorageError(f"{path}: a home folder or a whole disk is not removed")
        if place.is_dir() and not place.is_symlink():
            _remove_folder(place)
        else:
            place.unlink(missing_ok=True)


def _remove_folder(folder: Path, tries: int = 5) -> None:
    # A task that was cancelled may still come and go in the folder while it is being removed.
    for left in range(tries - 1, -1, -1):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if not left or error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        else:
            return
        if not folder.exists():
            return


def remote_file_system(url: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the name of the file in it."""
    import fsspec.core

    file_system, name = fsspec.core.url_to_fs(os.fspath(url))
    return file_system, name


@contextlib.contextmanager
def storage_errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the file systems raise in the block into `StorageError`: "cannot `action` `path`: why"."""
    try:
        yield
    except StorageError:
        raise
    except ImportError as error:
        raise StorageError(f"cannot {action} {path}: its fsspec driver is not installed: {error}") from error
    except FileNotFoundError as error:
        hint = ""
        if action == "write":
            hint = "; its folder is not there on this host: make it first, on a file system that every host reaches"
        raise StorageError(f"cannot {action} {path}: there is no such file or folder{hint}") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot {action} {path}: {error}") from error
