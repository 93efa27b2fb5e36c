"""Calls and objects as bytes, by cloudpickle, in a form that any worker can read."""

import functools
import io
import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["dump", "dump_call", "load_call"]

# Where a fresh interpreter, which has not the script's folder on its path (-P), finds a package or module.
_PROBE = """
import importlib.util, json, sys
spec = importlib.util.find_spec(sys.argv[1])
print(json.dumps([spec.origin, *(spec.submodule_search_locations or [])] if spec else [None]))
"""


def dump(value: Any) -> bytes:
    """Pickle an object; ``cloudpickle.loads`` is its counterpart.

    Functions and classes of the caller's script travel by value anyway. So do those of modules that a fresh
    interpreter would not find, such as files beside the script, wherever in the object they are met: a worker could
    not import them. What is installed travels by name.
    """
    import cloudpickle

    with ExitStack() as stack:

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
            def reducer_override(self, met: Any) -> Any:
                module = met if isinstance(met, ModuleType) else sys.modules.get(_module_name(met))
                if module is not None and not _travels(module) and not _is_installed(module):
                    cloudpickle.register_pickle_by_value(module)
                    stack.callback(cloudpickle.unregister_pickle_by_value, module)
                return super().reducer_override(met)

        with io.BytesIO() as file:
            Pickler(file).dump(value)
            return file.getvalue()


def dump_call(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bytes:
    """Pickle a call, as `dump` does.

    Raises
    ------
    TypeError
        Something in it cannot be pickled; the message says what.
    """
    try:
        return dump((fn, tuple(args), dict(kwargs or {})))
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


def _module_name(met: Any) -> str:
    """Return the module that a function or class would be looked for in; empty for anything else."""
    name = getattr(met, "__module__", None) if isinstance(met, type | FunctionType) else None
    return name if isinstance(name, str) else ""


def _travels(module: ModuleType) -> bool:
    """Tell whether what stands in a module is pickled by value already."""
    import cloudpickle

    parts = module.__name__.split(".")
    parents = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return bool(parents & {"__main__", *cloudpickle.list_registry_pickle_by_value()})


@functools.cache
def _is_installed(module: ModuleType) -> bool:
    """Whether a fresh interpreter finds this very file under the module's name, as part of something installed."""
    file = getattr(module, "__file__", None)
    top = module.__name__.partition(".")[0]
    if file is None or top in sys.stdlib_module_names:
        return True
    place = Path(file).resolve()
    if any(place.is_relative_to(folder) for folder in _site_folders()):
        return True
    origin, *places = _places_of(top)
    if origin is None and getattr(sys.modules.get(module.__package__ or ""), "__file__", None) is None:
        # No package on the way down has an __init__.py: a loose file, that some folder on the path happens to be above.
        return False
    return any(place.is_relative_to(Path(each).resolve()) for each in (origin, *places) if each)


@functools.cache
def _site_folders() -> tuple[Path, ...]:
    """Return the folders of this interpreter's own packages: a quick answer for most modules."""
    return tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))


@functools.cache
def _places_of(package: str) -> list[str | None]:
    """Return the file of a package or module (None: it has none, or is not found), and the folders it spans."""
    answer = subprocess.run(  # noqa: S603  our own interpreter and text, and the name of a loaded module
        [sys.executable, "-P", "-c", _PROBE, package], check=True, capture_output=True, text=True
    )
    return list(json.loads(answer.stdout))
