"""Configuration objects of several classes: each writes its name down, and is rebuilt from a list of known classes."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from pydantic import model_serializer

from hvdspark.config import Configuration
from hvdspark.errors import ConfigurationError

__all__ = ["Kind", "rebuild"]

_Kind = TypeVar("_Kind", bound="Kind")


class Kind(Configuration):
    """A configuration object whose JSON carries a ``type``: the name of its class."""

    @model_serializer(mode="wrap")
    def _with_type(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"type": type(self).__name__, **write(self)}

    @classmethod
    def _from_mapping(cls, options: Any) -> Self:
        return rebuild(options, [cls])


def rebuild(options: Any, classes: Sequence[type[_Kind]]) -> _Kind:
    """Make an object from what its JSON held.

    Parameters
    ----------
    options
        A mapping with the ``type`` (which may be left out where only one class is known) and the options of that class.
    classes
        The classes that may be made. Nothing is imported by name.

    Raises
    ------
    ConfigurationError
        For a type that is not in the list (the message names those that are), or options that its class refuses.
    """
    known = {cls.__name__: cls for cls in classes}
    names = ", ".join(sorted(known))
    if not isinstance(options, dict):
        raise ConfigurationError(f"a mapping with a 'type' is needed, one of {names}; not a {type(options).__name__}")
    name = options.get("type", names if len(known) == 1 else None)
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {names}"
        raise ConfigurationError(f"type {name!r} is not known here: {hint}")
    given = {str(key): value for key, value in options.items() if key != "type"}
    # By name, past the positional parameters of the class's own __init__: so every option is refused by name too.
    made = known[name].__new__(known[name])
    Configuration.__init__(made, **given)
    return made
