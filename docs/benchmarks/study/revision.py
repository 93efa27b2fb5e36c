"""Which code made a result: what is known of it is no choice, and so no part of the key that a result is found by."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import hvdspark
import hvdspark_kernels

__all__ = ["digest", "revision"]

_STUDY = Path(__file__).parent
#: What chooses, keeps and shows results, but makes none.
_AROUND = {"__main__", "experiment", "plots", "rates", "records", "report", "revision", "runs"}


def revision() -> str:
    """Return a name of all that decides a result: sources of the engine and of the study, and numba, as it is here."""
    engine = Path(hvdspark.__file__).parent
    packages = (*(engine / part for part in ("codec", "collectives", "sync")), Path(hvdspark_kernels.__file__).parent)
    files = {file: package for package in packages for file in package.rglob("*.py")}
    files |= {file: _STUDY for file in _STUDY.glob("*.py") if file.stem not in _AROUND}
    sources = {file.relative_to(root.parent).as_posix(): file.read_bytes() for file, root in files.items()}
    return f"{digest(sources)} with numba {importlib.metadata.version('numba')}"


def digest(sources: Mapping[str, bytes]) -> str:
    """Return a short sha256 of files, by name and content, in whatever order."""
    total = hashlib.sha256()
    for name, content in sorted(sources.items()):
        total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()[:12]
