"""Tables and curves for notebooks: HTML and inline SVG without scripts, in colours that the colour-blind tell apart."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "html_table", "svg_chart", "svg_matrix"]

# Okabe and Ito 2008; dashes tell curves apart where colours do not
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "12 3", "4 4", "10 2 2 2")
_MAX_POINTS = 400  # a chart is some 260 pixels wide
_SIDE, _LEFT, _TOP = 260, 48, 28
_MATRIX_TITLE = 320  # pixels
_FONT = 'font-family="sans-serif" font-size="11"'


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A named line: `x` and `y` are `[n] float64` in 0..1."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def html_table(rows: Sequence[Sequence[str]], *, header: bool = False) -> str:
    """Return rows as an escaped table; the first column, and with `header` the first row, are headings."""
    lines = []
    for number, row in enumerate(rows):
        tags = ["th" if column == 0 or (header and number == 0) else "td" for column in range(len(row))]
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for tag, cell in zip(tags, row, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def svg_chart(curves: Sequence[Curve], title: str, axes: tuple[str, str], *, diagonal: bool = False) -> str:
    """Return curves over the unit square, at most eight, with a legend.

    Parameters
    ----------
    curves
        Drawn in this order, each in its own colour and dashes; those after the eighth are left out and counted.
    title, axes
        Texts: above; of the x axis and the y axis.
    diagonal
        Draw the line of guessing.
    """
    shown = curves[: len(_COLOURS)]
    legend = [*(curve.name for curve in shown)] + [f"and {len(curves) - len(shown)} more"] * (len(curves) > len(shown))
    width, height = _LEFT + _SIDE + 16, _TOP + _SIDE + 44 + 16 * len(legend)
    parts = [_frame(title, axes)]
    if diagonal:
        parts.append(f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="#999" stroke-dasharray="3 3"/>')
    for number, curve in enumerate(shown):
        kept = np.unique(np.linspace(0, len(curve.x) - 1, min(len(curve.x), _MAX_POINTS)).astype(int))
        points = "L".join(f"{_x(x):.1f} {_y(y):.1f}" for x, y in zip(curve.x[kept], curve.y[kept], strict=True))
        line = f'stroke="{_COLOURS[number]}" stroke-dasharray="{_DASHES[number]}" stroke-width="2" fill="none"'
        parts.append(f'<path d="M{points}" {line}/>')
        y = _TOP + _SIDE + 46 + 16 * number
        parts.append(f'<path d="M{_LEFT} {y}h28" {line}/>')
    for number, name in enumerate(legend):
        parts.append(f'<text x="{_LEFT + 34}" y="{_TOP + _SIDE + 50 + 16 * number}">{html.escape(name)}</text>')
    return _svg(width, height, title, parts)


def svg_matrix(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return a confusion matrix: each cell shaded by its share of the row, its count written in.

    Parameters
    ----------
    counts
        `[classes, classes] int64`; rows are actual classes.
    names
        Of the classes.
    """
    cell = 44 if len(names) <= 8 else 34
    left, top = 24 + 7 * max(map(len, names)), 40
    side = cell * len(names)
    parts = ['<text x="4" y="14">confusion matrix (rows: actual class, columns: predicted)</text>']
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for i, name in enumerate(names):
        escaped = html.escape(name if len(name) * 7 < cell else str(i))
        parts.append(f'<text x="{left + cell * (i + 0.5)}" y="{top - 6}" text-anchor="middle">{escaped}</text>')
        parts.append(
            f'<text x="{left - 8}" y="{top + cell * (i + 0.5) + 4}" text-anchor="end">{html.escape(name)}</text>'
        )
        for j, share in enumerate(shares[i]):
            x, y = left + cell * j, top + cell * i
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="#0072B2" fill-opacity="{share:.3f}" '
                f'stroke="#999"/><text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" '
                f'fill="{"#fff" if share > 0.5 else "#000"}">{_short(counts[i, j])}</text>'
            )
    return _svg(max(left + side, _MATRIX_TITLE) + 12, top + side + 12, "confusion matrix", parts)


def _short(count: Any) -> str:
    if count < 100_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.3g}M"


def _frame(title: str, axes: tuple[str, str]) -> str:
    middle = _LEFT + _SIDE / 2
    parts = [f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">{html.escape(title)}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path d="M{_x(tick)} {_y(0)}V{_y(1)}M{_x(0)} {_y(tick)}H{_x(1)}" stroke="#ddd"/>')
        parts.append(f'<text x="{_x(tick)}" y="{_y(0) + 14}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{_x(0) - 5}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{middle}" y="{_y(0) + 30}" text-anchor="middle">{html.escape(axes[0])}</text>')
    turn = f"rotate(-90 12 {_TOP + _SIDE / 2})"
    y_name = html.escape(axes[1])
    parts.append(f'<text x="12" y="{_TOP + _SIDE / 2}" text-anchor="middle" transform="{turn}">{y_name}</text>')
    return "".join(parts)


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(label)}" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" {_FONT}>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _x(share: float) -> float:
    return _LEFT + _SIDE * share


def _y(share: float) -> float:
    return _TOP + _SIDE * (1 - share)
