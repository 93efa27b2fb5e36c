"""What a fit gives back."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

from hvdspark.network import Network
from hvdspark.stats import TrainingStats
from hvdspark.sync import compared

__all__ = ["TrainingResult"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a fit; printing it shows a small table.

    Parameters
    ----------
    network : Network
        With the trained weights.
    score : float
        Mean loss over all training examples in the last epoch; under early stopping in the best one.
    history : tuple of dict
        One an epoch: `epoch`, `score`, `validation_score` where there was validation data, `dropped` (examples
        left out) under `drop_last`, `seconds`.
    stats : TrainingStats
        Of all ranks; `stats.to_html(path)` writes the report.
    bytes_sent : int
        Bytes of one rank's own messages, padding included; the mean over ranks.
    dense_bytes : int
        4 x parameters x steps: what a dense exchange every step would have carried.
    run_directory : str
        Where events and weights of the run are.
    seed : int
        What the order of examples was drawn from.
    best_epoch : int, optional
        Which epoch's weights the network has, from 0; None without early stopping: the last one's.
    stop_reason : str
        Why training ended before its last epoch; empty: it did not.
    """

    network: Network
    score: float
    history: tuple[dict[str, Any], ...]
    stats: TrainingStats
    bytes_sent: int
    dense_bytes: int
    run_directory: str
    seed: int
    best_epoch: int | None = None
    stop_reason: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """Return the table as (name, value) rows."""
        rows = [("epochs", str(len(self.history))), ("loss", f"{self.score:.4f}")]
        told = self.history[-1 if self.best_epoch is None else self.best_epoch]
        if "validation_score" in told:
            rows.append(("validation loss", f"{told['validation_score']:.4f}"))
        if self.best_epoch is not None:
            rows.append(("best epoch", f"{self.best_epoch + 1} of {len(self.history)}"))
        if self.stop_reason:
            rows.append(("stopped because", self.stop_reason))
        if "dropped" in told:
            rows.append(("examples left out an epoch", f"{told['dropped']:,} (drop_last=True)"))
        return [
            *rows,
            ("bytes sent by a rank", f"{self.bytes_sent:,}"),
            ("dense would be", f"{self.dense_bytes:,} ({compared(self.bytes_sent, self.dense_bytes)})"),
            ("seconds", f"{self.stats.total_s:.1f}"),
        ]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self.rows())
        return f"<table>{cells}</table>"
