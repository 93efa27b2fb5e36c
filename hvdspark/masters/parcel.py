"""A network on its way to workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.masters.device import copy_on, moved, task_device
from hvdspark.network import Network
from hvdspark_launch.closure import dump

__all__ = ["Parcel", "PortableFunction"]

_kept: dict[
    str, dict[Any, Network]
] = {}  # of this process: the network that was used last by its token, on each device


class Parcel:
    """A network as bytes that every worker can read, also where its classes stand in files beside the user's script.

    Parameters
    ----------
    network : Network
        What travels, as it is now; from a GPU as a copy on the CPU, for workers may have none, or others.
    device : str
        Where tasks use it: "auto", "cpu", "cuda" or "cuda:0", as of `task_device`.

    Raises
    ------
    ModelError
        If a part of it cannot travel; the message names it.
    """

    def __init__(self, network: Network, device: str) -> None:
        network.check_portable()
        try:
            self._data = dump(copy_on(network, torch.device("cpu")))
        except Exception as error:  # of classes beside the user's script, which travel with their code
            raise ModelError(
                f"Network cannot travel to the workers: {type(error).__name__}: {error}. Put its classes into a "
                "package that is installed there, or keep what cannot be pickled out of them"
            ) from error
        self._device = device
        self._token = hashlib.sha256(self._data).hexdigest()

    def open(self, device: str | None = None) -> Network:
        """Return a copy of the network, of the caller's own.

        Parameters
        ----------
        device
            Where it is to lie, as of `task_device`. None: where tasks use it.

        Raises
        ------
        ConfigurationError
            If there is no such device here.
        ModelError
            If there is no room on it.
        """
        return self._on(task_device(self._device if device is None else device))

    def shared(self) -> Network:
        """Return this process's only copy on the device of this task, in evaluation mode: nobody is to change it.

        It is made when it is first asked for, and kept until another network is: the Python workers of Spark live
        longer than their tasks. Raises as `open` does.
        """
        device = task_device(self._device)
        if self._token not in _kept:
            _kept.clear()  # first: two networks are never held at once
        on = _kept.setdefault(self._token, {})
        if device not in on:
            network = self._on(device)
            network.module.eval()
            on[device] = network
        return on[device]

    def _on(self, device: torch.device) -> Network:
        import cloudpickle

        network: Network = cloudpickle.loads(self._data)
        return moved(network, device)


class PortableFunction:
    """A user's function that every worker can call, also where it stands in a file beside the user's script.

    Parameters
    ----------
    function : callable
        What travels.
    option : str
        What it was given as, for the message.

    Raises
    ------
    ConfigurationError
        If it cannot travel.
    """

    def __init__(self, function: Callable[..., Any], option: str) -> None:
        if not callable(function):
            raise ConfigurationError(f"{option}: a function is needed, this is a {type(function).__name__}")
        try:
            self._data = dump(function)
        except Exception as error:
            raise ConfigurationError(
                f"{option} cannot travel to the workers: {type(error).__name__}: {error}. Make inside the function "
                "what cannot be pickled (locks, sessions, open files)"
            ) from error
        self._function: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        import cloudpickle

        if self._function is None:
            self._function = cloudpickle.loads(self._data)
        return self._function(*args)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what this process has made of the bytes."""
        return {"_data": self._data, "_function": None}
