"""A synchroniser's state as it is written and read: looked at whole before anything of it is taken."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.errors import ConfigurationError
from hvdspark.sync.flat import FlatParameters
from hvdspark.sync.period import Period

__all__ = ["Keeper", "Saved", "encoder_state", "saved_count", "with_tensor"]

_KEYS = {
    "optimizer", "exchange", "steps", "exchanges", "rank", "size", "bytes_sent", "local_bytes", "active", "period",
    "under_way", "velocity",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Who saves a state, and takes it back.

    Parameters
    ----------
    name : str
        What errors call it.
    rank, size : int
        This rank, and how many there are.
    flat : FlatParameters
        The weights.
    has_outer : bool
        Whether there is an outer optimizer.
    """

    name: str
    rank: int
    size: int
    flat: FlatParameters
    has_outer: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """All of a state.

    Parameters
    ----------
    optimizer, exchange : dict
        Of the wrapped optimizer, and of the exchange; not looked at here.
    velocity : torch.Tensor, optional
        `[n] float32`, of the outer optimizer.
    under_way : torch.Tensor, optional
        `[n] float32`: what the last step has sent, summed over ranks and not yet applied.
    period : Period, optional
        The one that it was taken in the middle of.
    agreed : torch.Tensor, optional
        `[n] float32`: the weights that this period set out from.
    fingerprint : int, optional
        Checksum of the weights that this rank had then.
    active : ndarray, optional
        `[parameters] bool`.
    steps, exchanges, bytes_sent, local_bytes : int
        Counts.
    """

    optimizer: dict[str, Any]
    exchange: dict[str, Any]
    velocity: torch.Tensor | None
    under_way: torch.Tensor | None
    period: Period | None
    agreed: torch.Tensor | None
    fingerprint: int | None
    active: NDArray[np.bool_] | None
    steps: int
    exchanges: int
    bytes_sent: int
    local_bytes: int

    def written(self, keeper: Keeper) -> dict[str, Any]:
        """Return it as `state_dict` gives it to the user, for `read`."""
        return {
            "optimizer": self.optimizer,
            "exchange": self.exchange,
            "velocity": self.velocity,
            "period": self.period and (self.agreed, self.fingerprint, *self.period.numbers()),
            "under_way": self.under_way,
            "steps": self.steps,
            "exchanges": self.exchanges,
            "rank": keeper.rank,
            "size": keeper.size,
            "bytes_sent": self.bytes_sent,
            "local_bytes": self.local_bytes,
            "active": None if self.active is None else self.active.tolist(),
        }

    @classmethod
    def read(cls, state: dict[str, Any], keeper: Keeper) -> Self:
        """Read what `written` returned.

        Raises
        ------
        ConfigurationError
            If it is another rank's, another model's or damaged.
        """
        if set(state) != _KEYS:
            raise ConfigurationError(f"{keeper.name}: a state has the keys {sorted(_KEYS)}, not {sorted(state)}")
        if (state["rank"], state["size"]) != (keeper.rank, keeper.size):
            raise ConfigurationError(
                f"this is the state of rank {state['rank']} of {state['size']}, here is rank {keeper.rank} of "
                f"{keeper.size}: each rank keeps back something else, so each saves and loads its own"
            )
        if (state["velocity"] is not None) != keeper.has_outer:
            raise ConfigurationError("the state is of another outer_optimizer: one of them has none")
        try:
            return cls._read(state, keeper)
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(f"{keeper.name}: the state is damaged: {error}") from error

    @classmethod
    def _read(cls, state: dict[str, Any], keeper: Keeper) -> Self:
        agreed, fingerprint, *numbers = state["period"] or (None, None)
        for tensor in (state["velocity"], state["under_way"], agreed):
            if tensor is not None and (tensor.shape, tensor.dtype) != (keeper.flat.weights.shape, torch.float32):
                raise ValueError(f"it is not of a model of {keeper.flat.n} parameters")
        active = state["active"] if state["active"] is None else np.array(state["active"], np.bool_)
        if active is not None and active.shape != (len(keeper.flat.parameters),):
            raise ValueError(f"it is of {active.size} parameters, there are {len(keeper.flat.parameters)}")
        if not isinstance(state["optimizer"], dict) or not isinstance(state["exchange"], dict):
            raise TypeError("the states of optimizer and exchange are no dictionaries")
        counts = {name: state[name] for name in ("steps", "exchanges", "bytes_sent", "local_bytes")}
        if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
            raise ValueError(f"{counts} are no counts")
        return cls(
            optimizer=state["optimizer"],
            exchange=state["exchange"],
            velocity=state["velocity"],
            under_way=state["under_way"],
            period=Period.of(numbers) if numbers else None,
            agreed=agreed,
            fingerprint=fingerprint,
            active=active,
            **counts,
        )


def with_tensor(state: dict[str, Any]) -> dict[str, Any]:
    """Return an encoder's state with its residual as a tensor: torch.load takes it without being told to trust it."""
    return {**state, "residual": torch.from_numpy(state["residual"])}


def encoder_state(saved: Any) -> dict[str, Any]:
    """Return the state of an encoder as it takes it, from what `with_tensor` made of it.

    Raises
    ------
    ConfigurationError
        If it is no state of an encoder.
    """
    if not isinstance(saved, dict) or "residual" not in saved:
        raise ConfigurationError("the state is damaged: an encoder's has no residual among its keys")
    return {**saved, "residual": np.asarray(saved["residual"])}


def saved_count(state: dict[str, Any]) -> int:
    """Return the number of exchanges of a state that is to be loaded.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    value = state["sent"]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"the state is damaged: sent is {value!r}, a count is needed")
    return value
