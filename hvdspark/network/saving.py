"""A network as files: weights, a normaliser, and how the rest is made, each with its checksum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from torch import nn

from hvdspark import storage
from hvdspark.errors import ModelError, StorageError
from hvdspark.network.recipe import Indescribable, Recipe, describe, follow
from hvdspark.network.targets import name_of
from hvdspark.normalizing import read_normalizer, read_normalizer_of, write_normalizer

if TYPE_CHECKING:
    from hvdspark.network.network import Network

__all__ = ["load", "read", "save"]

_FORMAT = 2
_FORMATS = (1, 2)  # 1: without recipes
_WEIGHTS = "model.safetensors"
_FACTS = "network.json"

_PARTS = ("loss", "optimizer", "lr_scheduler", "output")
_PLAIN = ("scheduler_interval", "l1", "l2")


def save(network: Network, directory: str, architecture: Callable[..., nn.Module] | None) -> None:
    """Write a network; see `Network.save`."""
    module = network.own_module
    made = _recipe_of_module(module, architecture)  # what is refused is refused before a file is written
    storage.make_directories(directory)
    tensors = network.module.state_dict()
    checksum = storage.write_tensors(storage.join(directory, _WEIGHTS), tensors)
    facts = {
        "format": _FORMAT,
        "normalizer": write_normalizer(network.normalizer, directory),
        "weights": {"file": _WEIGHTS, "checksum": checksum},
        "module": f"{type(module).__module__}.{type(module).__qualname__}",
        "loss": name_of(network.loss),
        "tensors": {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in tensors.items()},
        "frozen": sorted(name for name, each in network.module.named_parameters() if not each.requires_grad),
        "recipes": {"module": made, **{name: _recipe_of(getattr(network, name)) for name in _PARTS}},
        **{name: getattr(network, name) for name in _PLAIN},
    }
    storage.write_json(storage.join(directory, _FACTS), facts)


def load(network: Network, directory: str) -> None:
    """Put saved weights and normaliser into a network; see `Network.load`."""
    facts = _facts(directory)
    normalizer = read_normalizer(network.normalizer, directory, facts.get("normalizer"))
    network.load_tensors(_weights(directory, facts), source=directory)
    if normalizer is not None:
        layer = normalizer.layer().to(next((p.device for p in network.module.parameters()), None))
        network.normalizer = normalizer
        network.module.add_module("normalizer", layer)


def read(make: type[Network], directory: str, known: Iterable[Callable[..., Any]]) -> Network:
    """Make a saved network again; see `Network.read`."""
    facts, known = _facts(directory), list(known)
    if facts["format"] == 1:
        raise ModelError(f"{directory} was saved by a version that kept no recipes: make the network, and use its load")
    recipes: dict[str, Recipe] = facts["recipes"]
    parts = {name: _part(directory, name, recipes[name], known) for name in ("module", *_PARTS)}
    for name in ("module", "loss", "output"):  # without them the network could not even predict
        if isinstance(parts[name], _NotKept):
            parts[name]()
    normalizer = read_normalizer_of(directory, facts["normalizer"])
    network = make(**parts, **{name: facts[name] for name in _PLAIN}, normalizer=normalizer)
    tensors = _weights(directory, facts)
    _bring_to_dtypes(network.module, tensors)
    network.load_tensors(tensors, source=directory)
    for name in facts["frozen"]:
        network.module.get_parameter(name).requires_grad = False
    return network


class _NotKept:
    """Stands where a part could not be written down: whoever needs it is told why it is not there."""

    def __init__(self, directory: str, name: str, reason: str) -> None:
        self._text = f"{directory} was saved without its {name} ({reason}): " + (
            "make the network in code and use its load, or save it with architecture="
            if name == "module"
            else f"make the network in code and use its load, or set network.{name}"
        )

    def __call__(self, *_given: object) -> NoReturn:
        raise ModelError(self._text)


def _part(directory: str, name: str, recipe: Recipe, known: list[Callable[..., Any]]) -> Any:
    if isinstance(recipe, dict) and "not_kept" in recipe:
        return _NotKept(directory, name, str(recipe["not_kept"]))
    made = follow(recipe, known)
    if name == "module" and not isinstance(made, nn.Module):
        raise ModelError(f"{directory}: its architecture made a {type(made).__name__}, not a torch.nn.Module")
    return made


def _recipe_of(value: Any) -> Recipe:
    try:
        return describe(value)
    except Indescribable as reason:
        return {"not_kept": str(reason)}


# ---- architecture --------------------------------------------------------------------------------------------------


def _recipe_of_module(module: nn.Module, architecture: Callable[..., nn.Module] | None) -> Recipe:
    """Describe a module, and make sure that following the recipe gives the same again."""
    known: list[Callable[..., Any]]
    try:
        if architecture is None:
            made, known = describe(module), [type(each) for each in module.modules()]
        else:
            maker = functools.partial(architecture)
            made, known = _call_of(maker), [maker.func]
        difference = _difference(module, _made_again(made, known))
    except Indescribable as reason:
        if architecture is not None:
            raise ModelError(f"architecture: {reason}: give a class or function of a module's top level") from None
        return {"not_kept": str(reason)}
    if difference is None:
        return made
    if architecture is not None:
        raise ModelError(f"architecture: it makes another module than the network's: {difference}")
    return {"not_kept": f"made again it would differ: {difference}"}


def _call_of(maker: functools.partial[nn.Module]) -> Recipe:
    recipe = describe(maker)
    return {"call": recipe["partial"], "args": recipe["args"], "kwargs": recipe["kwargs"]}


def _made_again(recipe: Recipe, known: Iterable[Callable[..., Any]]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # saving in the middle of a run must not change how it goes on
        made: nn.Module = follow(recipe, known)
    return made


def _difference(ours: nn.Module, theirs: Any) -> str | None:
    if not isinstance(theirs, nn.Module):
        return f"a {type(theirs).__name__} instead of a {type(ours).__name__}"
    one, other = _facts_of_module(ours), _facts_of_module(theirs)
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            return f"{name} is {other.get(name, 'missing')} instead of {one.get(name, 'missing')}"
    return None


def _facts_of_module(module: nn.Module) -> dict[str, str]:
    """Return what two modules must have in common: layers with their options, shapes, and what is tied to what."""
    facts = {f"the layer {name!r}": f"{type(each).__name__}({each.extra_repr()})" for name, each in _layers(module)}
    facts |= {f"the shape of {name}": str(list(each.shape)) for name, each in module.state_dict().items()}
    first: dict[int, str] = {}
    for kind, named in (("layer", _layers(module)), ("weight", module.named_parameters(remove_duplicate=False))):
        for name, each in named:
            facts[f"what the {kind} {name!r} is tied to"] = repr(first.setdefault(id(each), name))
    return facts


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(module.named_modules(remove_duplicate=False))


def _bring_to_dtypes(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give weights the dtypes in which they were saved: layers are made in torch's default one."""
    with torch.no_grad():
        for name, each in [*module.named_parameters(), *module.named_buffers()]:
            if name in tensors:
                each.data = each.data.to(tensors[name].dtype)


# ---- files ---------------------------------------------------------------------------------------------------------


def _facts(directory: str) -> dict[str, Any]:
    facts = storage.read_json(storage.join(directory, _FACTS))
    found = facts.get("format") if isinstance(facts, dict) else None
    if found not in _FORMATS:
        raise StorageError(f"{directory}: format {found!r} is not {_FORMAT}, the one this version reads")
    return facts  # type: ignore[no-any-return]


def _weights(directory: str, facts: dict[str, Any]) -> dict[str, torch.Tensor]:
    framework: Literal["torch"] = "torch"
    path = storage.join(directory, _WEIGHTS)
    tensors, _ = storage.read_tensors(path, framework=framework, expected_checksum=facts["weights"]["checksum"])
    return tensors
