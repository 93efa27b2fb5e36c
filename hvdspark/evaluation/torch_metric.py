"""Any metric of torchmetrics whose states merge; others are refused by name before any job starts."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from hvdspark.config import Configuration
from hvdspark.errors import DataError, UnsupportedError
from hvdspark.evaluation.measure import Measure, State

if TYPE_CHECKING:
    import torch
    from torchmetrics import Metric

__all__ = ["TorchMeasure"]

_REDUCTIONS = {"dim_zero_sum": "sum", "dim_zero_max": "max", "dim_zero_min": "min", "dim_zero_cat": "cat"}
_JOINED = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class TorchMeasure(Measure):
    """A `torchmetrics.Metric` or `MetricCollection`; its result is a dict of numbers and arrays by metric name.

    What it was updated with before does not count; it is never changed itself. States are kept in float64. Metrics that
    keep every row ("cat" states, such as AUROC without thresholds) send them all to the driver.

    Parameters
    ----------
    metric
        Each of its states must be a tensor that is summed (from zero) or of which the largest or smallest is taken, or
        a list that is concatenated.
    output
        Which output of a network with several is measured.

    Raises
    ------
    UnsupportedError
        If a metric does not merge; the message names it and its state.
    """

    metric: Any

    def __init__(self, metric: Any, *, output: int = 0) -> None:
        Configuration.__init__(self, metric=metric, output=output)

    @field_validator("metric")
    @classmethod
    def _check_mergeable(cls, metric: Any) -> Any:
        reasons = [f"{name} ({why})" for name, each in _metrics(metric).items() if (why := _obstacle(each))]
        if reasons:
            raise UnsupportedError(
                f"states of {'; '.join(reasons)} do not merge over partitions: compute them from the columns of predict"
            )
        return metric

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the states of one batch; masked rows are left out."""
        import torch

        output, labels = _unmasked(np.asarray(output), np.asarray(labels), mask)
        if not len(labels):
            return {}
        state: State = {}
        for name, metric in self._copies().items():
            try:
                metric.update(torch.from_numpy(output), torch.from_numpy(labels))
            except (ValueError, RuntimeError, TypeError) as error:
                raise DataError(
                    f"{name} does not take output {output.shape} and labels {labels.shape}: {error}"
                ) from error
            for key in metric._defaults:
                value = getattr(metric, key)
                if isinstance(value, list):
                    value = torch.cat([part.reshape(-1) if part.ndim == 0 else part for part in value])
                state[f"{name}/{key}"] = value.detach().cpu().numpy().copy()
        return state

    def _check_alike(self, one: State, other: State) -> None:
        if one.keys() != other.keys():
            raise DataError(f"TorchMeasure: parts have other states: {sorted(one.keys() ^ other.keys())}")

    def _merge(self, one: State, other: State) -> State:
        merged: State = {}
        for name, metric in _metrics(self.metric).items():
            for key in metric._defaults:
                kind, full = _reduction(metric, key), f"{name}/{key}"
                pair = one[full], other[full]
                merged[full] = np.concatenate(pair) if kind == "cat" else np.asarray(_JOINED[kind](*pair))
        return merged

    def compute(self, state: State) -> dict[str, Any]:
        """Return each metric's value over all rows: a float, or an array where it has several numbers."""
        import torch

        self._check_observed(state)
        found = {}
        for name, metric in self._copies().items():
            for key, default in metric._defaults.items():
                value = torch.from_numpy(np.array(state[f"{name}/{key}"]))
                setattr(metric, key, [value] if isinstance(default, list) else value)
            metric._update_count = 1  # else compute() warns that it has seen nothing
            found[name] = _plain(metric.compute())
        return found

    def _copies(self) -> dict[str, Metric]:
        import torch

        fresh = {}
        for name, metric in _metrics(self.metric).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a constructor warned of is known
                fresh[name] = copy.deepcopy(metric).cpu()
            fresh[name].reset()
            fresh[name].set_dtype(torch.float64)
        return fresh


def _metrics(metric: Any) -> dict[str, Metric]:
    from torchmetrics import Metric, MetricCollection

    if isinstance(metric, MetricCollection):
        return {str(name): each for name, each in metric.items(copy_state=False)}
    if isinstance(metric, Metric):
        return {type(metric).__name__: metric}
    raise UnsupportedError(f"metric: a torchmetrics Metric or MetricCollection is needed, not {type(metric).__name__}")


def _obstacle(metric: Metric) -> str:
    """Say what keeps a metric from being merged, or ''."""
    from torchmetrics import Metric

    if any(isinstance(child, Metric) for child in list(metric.modules())[1:]) or not metric._defaults:
        return "it wraps other metrics or registers no state"
    if metric.full_state_update is not False or metric.dist_sync_on_step:
        return "its update looks at the state so far: full_state_update"
    for key, default in metric._defaults.items():
        kind = _reduction(metric, key)
        if kind not in ("sum", "max", "min", "cat"):
            return f"state {key} is reduced by {kind}"
        from_nothing = (
            kind == "cat" if isinstance(default, list) else kind != "cat" and not (kind == "sum" and default.any())
        )
        if not from_nothing:
            return f"state {key} does not start from nothing"
    return ""


def _reduction(metric: Metric, key: str) -> str:
    function = metric._reductions[key]
    name = getattr(function, "__name__", str(function))
    return _REDUCTIONS.get(name, name)


def _unmasked(
    output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    if mask is None:
        return output, labels
    mask = np.asarray(mask)
    if not ((mask == 0) | (mask == 1)).all():
        raise DataError("a mask is 0 or 1: rows are counted, not weighted")
    if mask.shape != labels.shape[: mask.ndim]:
        raise DataError(f"a mask of shape {mask.shape} does not fit labels of shape {labels.shape}")
    if mask.ndim > 1 and output.ndim == labels.ndim + 1:
        output = np.moveaxis(output, 1, -1)  # classes stand before steps
    return output[mask.astype(bool)], labels[mask.astype(bool)]


def _plain(value: torch.Tensor | Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.item() if value.ndim == 0 else value.numpy()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
