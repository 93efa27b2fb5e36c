"""A call as bytes: the function and its arguments, by cloudpickle."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

__all__ = ["dump_call", "load_call"]

# Where a fresh interpreter, which has not the script's folder on its path (-P), finds a package or module.
_PROBE = """
import importlib.util, json, sys
spec = importlib.util.find_spec(sys.argv[1])
print(json.dumps([spec.origin, *(spec.submodule_search_locations or [])] if spec else [None]))
"""


def dump_call(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bytes:
    """Pickle a call.

    Functions and classes of the caller's script travel by value anyway. So do those of modules that a fresh
    interpreter would not find, such as files beside the script: a rank could not import them. What is installed
    travels by name.

    Raises
    ------
    TypeError
        Something in it cannot be pickled; the message says what.
    """
    import cloudpickle

    kwargs = dict(kwargs or {})
    with ExitStack() as stack:
        for module in _not_installed((fn, *args, *kwargs.values())):
            if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        try:
            return bytes(cloudpickle.dumps((fn, tuple(args), kwargs)))
        except Exception as error:
            name = getattr(fn, "__qualname__", repr(fn))
            raise TypeError(
                f"{name} or its arguments cannot be sent to the ranks: {type(error).__name__}: {error}. "
                "Make inside the function what cannot be pickled (locks, sockets, sessions, open files)"
            ) from error


def load_call(data: bytes) -> Callable[..., Any]:
    """Return the pickled call as a function; what it is given stands before the call's own arguments."""
    import cloudpickle

    fn, args, kwargs = cloudpickle.loads(data)

    def call(*first: Any) -> Any:
        return fn(*first, *args, **kwargs)

    return call


def _not_installed(objects: Iterable[Any]) -> list[ModuleType]:
    names = {name for part in objects for name in _module_names(part)} - {"__main__", "builtins"}
    loaded = sorted(name for name in names if name in sys.modules)
    return [sys.modules[name] for name in loaded if not _is_installed(sys.modules[name])]


def _module_names(part: Any) -> Iterator[str]:
    if isinstance(part, functools.partial):
        for inner in (part.func, *part.args, *part.keywords.values()):
            yield from _module_names(inner)
    elif isinstance(part, MethodType):
        yield from _module_names(part.__self__)
    else:
        for owner in (part, type(part)):
            if isinstance(name := getattr(owner, "__module__", None), str):
                yield name


def _is_installed(module: ModuleType) -> bool:
    """Whether a fresh interpreter finds this very file under the module's name, as part of something installed."""
    file = getattr(module, "__file__", None)
    top = module.__name__.partition(".")[0]
    if file is None or top in sys.stdlib_module_names:
        return True
    origin, *places = _places_of(top)
    if origin is None and getattr(sys.modules.get(module.__package__ or ""), "__file__", None) is None:
        # No package on the way down has an __init__.py: a loose file, that some folder on the path happens to be above.
        return False
    return any(Path(file).resolve().is_relative_to(Path(place).resolve()) for place in (origin, *places) if place)


@functools.cache
def _places_of(package: str) -> list[str | None]:
    """Return the file of a package or module (None: it has none, or is not found), and the folders it spans."""
    answer = subprocess.run(  # noqa: S603  our own interpreter and text, and the name of a loaded module
        [sys.executable, "-P", "-c", _PROBE, package], check=True, capture_output=True, text=True
    )
    return list(json.loads(answer.stdout))
