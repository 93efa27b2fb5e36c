"""Raw numbers: a line of JSON a training, appended as soon as it ends, and never made twice."""

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from runs import Outcome, Point, Run, Setting

__all__ = ["Records"]


class Records:
    """The files of a folder, one a workload. Several processes may add to them at one time.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[tuple[Run, Outcome]]:
        """Read everything; a line that was broken off in its middle is left out. The first of two alike counts."""
        found: dict[str, tuple[Run, Outcome]] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                record = _parsed(line)
                if record is not None:
                    found.setdefault(record[0].key, record)
        return list(found.values())

    def find(self, run: Run) -> Outcome | None:
        """Return what came of this run, if it was made; by another process, too."""
        return next((outcome for known, outcome in self.all() if known.key == run.key), None)

    def add(self, run: Run, outcome: Outcome, seconds: float) -> None:
        """Append a run, at once and whole."""
        line = json.dumps(
            {
                **dataclasses.asdict(run),
                "loss": outcome.points[-1].loss if outcome.points else None,
                "diverged": not outcome.points,
                "density": outcome.density,
                "exchanges": outcome.exchanges,
                "code": outcome.code,
                "seconds": round(seconds, 1),
                "points": [list(point) for point in outcome.points],
            }
        )
        with (self._folder / f"{run.setting.workload}.jsonl").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A line that was broken off ends here, and spoils none but itself.
            whole = file.tell() == 0 or _last_byte(file.name) == b"\n"
            file.write((b"" if whole else b"\n") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _last_byte(name: str) -> bytes:
    with Path(name).open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _parsed(line: str) -> tuple[Run, Outcome] | None:
    try:
        record: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    choices = {field.name: record[field.name] for field in dataclasses.fields(Run)}
    run = Run(**choices | {"setting": Setting(**record["setting"])})
    points = [Point(*point) for point in record["points"]]
    return run, Outcome(points, record["density"], record["exchanges"], record.get("code"))
