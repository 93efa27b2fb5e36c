"""Where an element of a flat update is, in words of the model."""

from collections.abc import Sequence

from hvdspark.errors import ConfigurationError

__all__ = ["Names"]


class Names:
    """The names of the parameters inside a flat update.

    Parameters
    ----------
    names
        ``(name, start, stop)`` of each; None where nothing is known.
    n
        Elements of the update.

    Raises
    ------
    ConfigurationError
        For a span outside the update.
    """

    def __init__(self, names: Sequence[tuple[str, int, int]] | None, n: int) -> None:
        for name, start, stop in names or ():
            if not 0 <= start <= stop <= n:
                raise ConfigurationError(f"names: {name!r} spans {start}..{stop}, outside 0..{n}")
        self._names = list(names or ())
        self._n = n

    def place(self, i: int) -> str:
        """Say where element `i` is."""
        for name, start, stop in self._names:
            if start <= i < stop:
                return f"element {i - start} of {name!r} (element {i} of {self._n})"
        return f"element {i} of {self._n}"
