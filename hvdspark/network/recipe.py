"""How an object is made, as plain data: the name of a callable and its arguments. No pickle, nothing imported by name.

A recipe is what JSON can hold. ``{"call": "torch.nn.Linear", "args": [], "kwargs": {...}}`` is an object that a
callable returns, ``{"partial": ...}`` a callable with some of its arguments, ``{"name": ...}`` a callable itself,
``{"sequential": [[name, recipe], ...]}`` a torch.nn.Sequential. Numbers, text and lists stand for themselves; what else
arguments are made of is an object with one key: ``tuple``, ``dict``, ``float`` (NaN and infinity), ``dtype``,
``tensor``.

Who reads a recipe says which callables it may use: those of torch.nn, torch.optim and their functional and scheduler
modules are known, all others are given by the caller.
"""

import functools
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from hvdspark.errors import ModelError
from hvdspark.network.joint import JointLoss

__all__ = ["Indescribable", "Recipe", "describe", "follow", "name_of_callable"]

Recipe: TypeAlias = Any
"""A JSON value; see above."""

_PUBLIC: Mapping[str, ModuleType] = {
    "torch.nn": nn,
    "torch.nn.functional": nn.functional,
    "torch.optim": torch.optim,
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
}
_Known: TypeAlias = Mapping[str, Callable[..., Any]]
_MAX_TENSOR = 1 << 16  # weights of classes; more than that are weights of a model, which lie in a file of their own


class Indescribable(Exception):
    """Something for which there is no recipe; the text says what and why. No error: weights are kept without one."""


def name_of_callable(function: Callable[..., Any]) -> str:
    """Return the name by which a recipe calls a class or function.

    Raises
    ------
    Indescribable
        If it has none: a lambda, a function made inside another, a bound method.
    """
    name = getattr(function, "__qualname__", None)
    if function is JointLoss:
        return "hvdspark.JointLoss"
    for prefix, room in _PUBLIC.items():
        if name is not None and getattr(room, name, None) is function:
            return f"{prefix}.{name}"
    if name is None or inspect.ismethod(function) or not (isinstance(function, type) or inspect.isroutine(function)):
        raise Indescribable(f"a {type(function).__name__} has no name that can be written down")
    if "<" in name:
        raise Indescribable(f"{name} is no function or class of a module's top level")
    return f"{function.__module__}.{name}"


# ---- from objects to recipes ---------------------------------------------------------------------------------------


def describe(value: Any) -> Recipe:
    """Return how a value is made.

    Parameters
    ----------
    value
        A module or loss (of torch.nn, a Sequential of such, or of a class whose constructor takes no argument), a
        ``functools.partial``, a class or function with a name, a small tensor, or plain values.

    Raises
    ------
    Indescribable
        If nobody could make it again from a text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    if callable(value):
        return {"name": name_of_callable(value)}
    raise Indescribable(f"a {type(value).__name__} cannot be written down")


def _of_dict(value: dict[Any, Any]) -> Recipe:
    if not all(isinstance(key, str) for key in value):
        raise Indescribable("a dict whose keys are not text")
    return {"dict": {key: describe(each) for key, each in value.items()}}


def _of_partial(value: "functools.partial[Any]") -> Recipe:
    return {"partial": name_of_callable(value.func), **_arguments(value.args, value.keywords)}


def _arguments(args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Recipe]:
    return {"args": [describe(each) for each in args], "kwargs": {key: describe(each) for key, each in kwargs.items()}}


def _of_tensor(tensor: torch.Tensor) -> Recipe:
    if tensor.numel() > _MAX_TENSOR or tensor.is_complex():
        raise Indescribable(f"a tensor of shape {list(tensor.shape)} and dtype {tensor.dtype}")
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.double()  # the nearest text of a double gives the same number back
    flat = [describe(each) for each in values.reshape(-1).tolist()]
    return {"tensor": flat, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _of_module(module: nn.Module) -> Recipe:
    kind = type(module)
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise Indescribable(f"a {kind.__name__} with hooks")
    if kind is nn.Sequential:
        return {"sequential": [[name, _of_module(each)] for name, each in module._modules.items() if each]}
    parameters = [each for each in inspect.signature(kind).parameters.values() if not each.name.startswith("_")]
    if not parameters:
        return {"call": name_of_callable(kind), **_arguments((), {})}
    if kind is not JointLoss and not name_of_callable(kind).startswith("torch.nn."):
        raise Indescribable(f"nobody can tell what {kind.__name__} was made with")
    return {"call": name_of_callable(kind), **_arguments((), _constructor_arguments(module, parameters))}


def _constructor_arguments(module: nn.Module, parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
    """Return what a layer or loss of torch was made with: its attributes bear the names of the arguments."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if name in ("device", "dtype"):
            continue  # weights are brought to their dtype when they are read
        if name in ("size_average", "reduce"):
            continue  # torch's losses turned them into `reduction`
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(module, name):
            raise Indescribable(f"nobody can tell the {name!r} that this {type(module).__name__} was made with")
        value = getattr(module, name)
        # of bias=True a layer keeps the bias itself
        is_flag = isinstance(value, nn.Parameter) or (value is None and isinstance(parameter.default, bool))
        found[name] = value is not None if is_flag else value
    return found


_WRITERS: Mapping[type, Callable[[Any], Recipe]] = {
    float: lambda value: value if math.isfinite(value) else {"float": repr(value)},
    list: lambda value: [describe(each) for each in value],
    tuple: lambda value: {"tuple": [describe(each) for each in value]},
    dict: _of_dict,
    torch.dtype: lambda value: {"dtype": str(value).removeprefix("torch.")},
    torch.Tensor: _of_tensor,
    nn.Module: _of_module,
    functools.partial: _of_partial,
}


# ---- from recipes to objects ---------------------------------------------------------------------------------------


def follow(recipe: Recipe, known: Iterable[Callable[..., Any]]) -> Any:
    """Make what a recipe describes.

    Parameters
    ----------
    recipe
        What `describe` returned, read from anywhere: it cannot name more than the known callables.
    known
        The classes and functions, besides torch's, that it may use.

    Raises
    ------
    ModelError
        If it names another callable (the message says how to allow it), or is no recipe.
    """
    names = {f"{each.__module__}.{each.__qualname__}": each for each in known}
    try:
        return _follow(recipe, names)
    except ModelError:  # a ValueError too, and it says enough
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"this is no recipe of a network: {type(error).__name__}: {error}") from error


def _follow(recipe: Recipe, known: _Known) -> Any:
    if isinstance(recipe, list):
        return [_follow(each, known) for each in recipe]
    if not isinstance(recipe, dict):
        return recipe
    kind = next(iter(recipe), "nothing")
    if kind not in _READERS:
        raise ValueError(f"{kind!r} is no kind of one")
    return _READERS[kind](recipe, known)


def _called(recipe: Recipe, known: _Known) -> Any:
    function = _resolve(recipe["call"], known)
    if function not in known.values() and not _is_module(function):
        raise ValueError(f"{recipe['call']} makes no module")
    return _partial({"partial": recipe["call"], **recipe}, known)()


def _partial(recipe: Recipe, known: _Known) -> "functools.partial[Any]":
    args = [_follow(each, known) for each in recipe["args"]]
    kwargs = {key: _follow(each, known) for key, each in recipe["kwargs"].items()}
    return functools.partial(_resolve(recipe["partial"], known), *args, **kwargs)


def _sequential(recipe: Recipe, known: _Known) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, _follow(each, known)) for name, each in recipe["sequential"]))


def _tensor(recipe: Recipe, known: _Known) -> torch.Tensor:
    values = [_follow(each, known) for each in recipe["tensor"]]
    return torch.tensor(values, dtype=_dtype(recipe["dtype"])).reshape(recipe["shape"])


def _is_module(function: Callable[..., Any]) -> bool:
    return isinstance(function, type) and issubclass(function, nn.Module)


_READERS: Mapping[str, Callable[[Recipe, _Known], Any]] = {
    "call": _called,
    "partial": _partial,
    "name": lambda recipe, known: _resolve(recipe["name"], known),
    "sequential": _sequential,
    "tuple": lambda recipe, known: tuple(_follow(each, known) for each in recipe["tuple"]),
    "dict": lambda recipe, known: {key: _follow(each, known) for key, each in recipe["dict"].items()},
    "float": lambda recipe, _known: float(recipe["float"]),
    "dtype": lambda recipe, _known: _dtype(recipe["dtype"]),
    "tensor": _tensor,
}


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no dtype of torch")
    return dtype


def _resolve(name: str, known: _Known) -> Callable[..., Any]:
    if name == "hvdspark.JointLoss":
        return JointLoss
    if name in known:
        return known[name]
    room, _, last = name.rpartition(".")
    if room in _PUBLIC and not last.startswith("_"):
        function = getattr(_PUBLIC[room], last, None)
        # a class or function of torch itself, not a module or type that happens to be imported there
        if callable(function) and getattr(function, "__module__", "").startswith("torch"):
            return function  # type: ignore[no-any-return]
    # A script's own classes are called __main__ there, and otherwise by the module's name.
    same = [each for full, each in known.items() if full.rpartition(".")[2] == last and room == "__main__"]
    if len(same) == 1:
        return same[0]
    raise ModelError(
        f"the network uses {name}, which is not known here: import it and give known=[{last}], or add it to "
        "Network.known; only do so for code that you trust"
    )
