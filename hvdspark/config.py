"""The base of every configuration object: frozen, unknown keys refused by name, to and from JSON and YAML.

Where objects of several classes can stand (`Kind`), each writes the name of its class down, and is rebuilt from a list
of known classes.
"""

import difflib
import json
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer
from pydantic_core import PydanticSerializationError

from hvdspark.errors import ConfigurationError

__all__ = ["Configuration", "Kind", "rebuild"]

_Kind = TypeVar("_Kind", bound="Kind")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80  # aliases in YAML make very much of little text
_MAX_TEXT_BYTES = 1 << 20  # a configuration is a page; anything larger is a mistake or an attack


class Configuration(BaseModel):
    """A value object: options that are checked when it is made and never change afterwards.

    Subclasses declare their options as annotated fields, each with its meaning and unit in the class docstring. Small
    value classes that take positionals write their own ``__init__`` and hand the values on by name.

    Raises
    ------
    ConfigurationError
        For an unknown option (with the nearest known one) or a refused value (with the option's name).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="strings")

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ConfigurationError(_explain(type(self), error)) from None

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with some options changed, checked like a new one."""
        options = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**options, **changes})

    def to_json(self) -> str:
        """Return the options as JSON text that `from_json` takes back.

        Raises
        ------
        ConfigurationError
            If an option is an object that text cannot hold; the message names it.
        """
        try:
            return self.model_dump_json(indent=2)
        except PydanticSerializationError as error:  # it hides what the option's own writer said
            raise ConfigurationError(f"{type(self).__name__}: {str(error).rpartition('Error: ')[2]}") from None

    def to_yaml(self) -> str:
        """Return the options as YAML text that `from_yaml` takes back."""
        return yaml.safe_dump(json.loads(self.to_json()), sort_keys=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make one from JSON text; unknown keys are refused by name."""
        _check_size(cls, text)
        try:
            options = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigurationError(f"{cls.__name__}: this is not JSON: {error}") from None
        return cls._from_mapping(options)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Make one from YAML text (plain values only); unknown keys are refused by name."""
        _check_size(cls, text)
        try:
            options = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigurationError(f"{cls.__name__}: this is not YAML: {error}") from None
        return cls._from_mapping(options)

    @classmethod
    def _from_mapping(cls, options: Any) -> Self:
        if not isinstance(options, dict):
            raise ConfigurationError(
                f"{cls.__name__}: a mapping of options is needed, this is a {type(options).__name__}"
            )
        return cls(**options)


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


def _check_size(cls: type[Configuration], text: str) -> None:
    if len(text) > _MAX_TEXT_BYTES:
        raise ConfigurationError(
            f"{cls.__name__}: {len(text)} characters are no configuration (limit {_MAX_TEXT_BYTES})"
        )


def _explain(cls: type[Configuration], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(_unknown(cls, where))
        elif problem["type"] == "missing":
            lines.append(f"{cls.__name__} needs {where}")
        else:
            message, given = problem["msg"].removeprefix("Value error, "), _SHORT.repr(problem["input"])
            lines.append(f"{cls.__name__}.{where}: {message} (got {given})" if where else message)
    return "; ".join(lines)


def _unknown(cls: type[Configuration], name: str) -> str:
    known = sorted(cls.model_fields)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known) or 'none'}"
    return f"{cls.__name__} has no option {name!r}: {hint}"
