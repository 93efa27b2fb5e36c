"""What inputs a module takes, by the signature of its forward."""

import inspect
from collections.abc import Sequence
from inspect import Parameter

from torch import nn

from hvdspark.errors import ConfigurationError

__all__ = ["check_inputs"]

_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def check_inputs(module: nn.Module, arguments: Sequence[str], option: str) -> None:
    """Make sure that a module can be called with some inputs; one without a signature is not looked at.

    Parameters
    ----------
    module
        The user's module. Its argument ``features_mask`` is no input.
    arguments
        One an input: the name of the argument that takes it; empty: inputs are given by position.
    option
        What the inputs were given as, for the message.

    Raises
    ------
    ConfigurationError
        If there are too many or too few inputs, or there is no argument of a name.
    """
    try:
        given = [each for each in inspect.signature(module.forward).parameters.values() if each.name != "features_mask"]
    except (TypeError, ValueError):  # made in C, without a signature
        return
    kinds = {each.kind for each in given}
    by_name = bool(arguments and arguments[0])
    known = [each.name for each in given if each.kind in (_BY_NAME if by_name else _BY_PLACE)]
    names = ", ".join(known) or "none"
    called = f"{option}: {type(module).__name__}.forward"
    if by_name:
        strange = [name for name in arguments if name not in known]
        if strange and Parameter.VAR_KEYWORD not in kinds:
            raise ConfigurationError(f"{called} has no argument {strange[0]!r} for an input: it has {names}")
    elif len(arguments) > len(known) and Parameter.VAR_POSITIONAL not in kinds:
        raise ConfigurationError(
            f"{called} takes {len(known)} inputs ({names}), and {len(arguments)} are given: give one for each, columns "
            "of one number each in a list within the list"
        )
    taken = arguments if by_name else known[: len(arguments)]
    needed = [each.name for each in given if each.default is Parameter.empty and each.kind in (*_BY_PLACE, *_BY_NAME)]
    missing = [name for name in needed if name not in taken]
    if missing:
        raise ConfigurationError(
            f"{called} needs the input {missing[0]!r} as well: {len(arguments)} are given. Give one for each, in the "
            "order of its arguments or as a dict by their names"
        )
