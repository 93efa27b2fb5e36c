"""A progress bar on the driver, fed by the events that rank 0 writes."""

from __future__ import annotations

import logging
import threading
from typing import Any, Self

from hvdspark.errors import StorageError
from hvdspark.events import EventReader

__all__ = ["ProgressBar"]

_LOG = logging.getLogger(__name__)
_INTERVAL_S = 0.3


class ProgressBar:
    """Follows a run while its block is running: a bar on a terminal or in a notebook, log lines everywhere.

    Parameters
    ----------
    run_directory : str
        The run to follow.
    epochs : int
        How many epochs it will have.
    """

    def __init__(self, run_directory: str, epochs: int) -> None:
        from tqdm.auto import tqdm

        self._reader = EventReader(run_directory)
        self._epochs = epochs
        self._bar = tqdm(desc="starting ranks", unit="step", bar_format="{desc} {elapsed}", disable=None, leave=False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="hvdspark-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)
        self._bar.close()

    def _follow(self) -> None:
        try:
            while not self._done.wait(_INTERVAL_S):
                self._show_new()
            self._show_new()
        except StorageError as error:  # a run goes on without its bar
            _LOG.warning("the progress of the run cannot be shown any more: %s", error)

    def _show_new(self) -> None:
        for event in self._reader.read():
            if event["kind"] == "progress":
                self._advance(event)
            elif event["kind"] == "epoch":
                self._tell(event)

    def _advance(self, event: dict[str, Any]) -> None:
        steps = event["num_steps"]
        self._bar.total, self._bar.bar_format = steps * self._epochs, None
        self._bar.set_description(f"epoch {event['epoch'] + 1}/{self._epochs}", refresh=False)
        self._bar.update(event["epoch"] * steps + event["step"] - self._bar.n)

    def _tell(self, event: dict[str, Any]) -> None:
        figures = {
            name.replace("_score", " loss").replace("score", "loss"): f"{event[name]:.4f}"
            for name in ("score", "validation_score")
            if event.get(name) is not None
        }
        self._bar.set_postfix(figures, refresh=False)
        _LOG.info("epoch %d: %s", event["epoch"] + 1, ", ".join(f"{name} {value}" for name, value in figures.items()))
