"""A network on its way to workers."""

from __future__ import annotations

from hvdspark.network import Network
from hvdspark_launch.closure import dump

__all__ = ["Parcel"]


class Parcel:
    """A network as bytes that every worker can read, also where its classes stand in files beside the user's script.

    Parameters
    ----------
    network : Network
        What travels, as it is now.

    Raises
    ------
    ModelError
        If a part of it cannot travel; the message names it.
    """

    def __init__(self, network: Network) -> None:
        network.check_portable()
        self._data = dump(network)

    def open(self) -> Network:
        """Return a copy of the network, of the caller's own."""
        import cloudpickle

        network: Network = cloudpickle.loads(self._data)
        return network
