"""The colours of phases: Okabe and Ito's palette, which colour-blind people can tell apart, with shades of it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["colour", "in_order", "ink"]

_COLOURS = {
    "load": "#e69f00",
    "forward_backward": "#0072b2",
    "hooks": "#6b4fa0",
    "update": "#cc79a7",
    "encode": "#56b4e9",
    "sum inside": "#f3a683",
    "exchange": "#d55e00",
    "wait": "#f0e442",
    "decode": "#009e73",
    "join": "#66c5ab",
    "apply": "#b2e2d4",
    "garbage": "#000000",
    "checkpoint": "#7a3b00",
    "validate": "#8fa8bf",
    "epoch_end": "#444444",
    "start": "#c9c9c9",
    # of the driver, in greys: the legend shall not have a colour twice
    "checks": "#1f1f1f",
    "staging": "#8c8c8c",
    "launch": "#bdbdbd",
    "ranks": "#5c6773",
    "weights": "#2e3a46",
    "lost attempt": "#8b0000",
    "other": "#e6e6e6",
}


def colour(name: str) -> str:
    """Return the colour of a phase."""
    return _COLOURS.get(name, "#999999")


def ink(name: str) -> str:
    """Return black or white, whichever is read more easily on it."""
    code = colour(name)
    red, green, blue = (int(code[i : i + 2], 16) for i in (1, 3, 5))
    return "#fff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#222"


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names, each once, in the order of a step; what is unknown comes last."""
    known = list(_COLOURS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in _COLOURS else len(known), name))
