"""Loss against bytes on the wire: a curve an arm, mean over its seeds."""

import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from report import Row, Table

__all__ = ["draw"]


def draw(table: Table, folder: Path) -> Path:
    """Write the plot of a table as SVG; return the file."""
    setting = table.setting
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in table.rows if all(outcome.points for outcome in row.outcomes.values())]
    for i, row in enumerate(rows):
        wire, loss = _curve(row)
        label = f"{row.name} (1/{row.wire:,.0f})"
        style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4]}
        axes.plot(wire, loss, label=label, linewidth=1.2, **style)
        axes.plot(wire[-1], loss[-1], "o", color=style["color"], markersize=4)
    if table.dense is not None and table.dense in rows and table.spread is not None:
        low, high = table.dense.loss - table.spread, table.dense.loss + table.spread
        axes.axhspan(low, high, color="0.85", zorder=0, label="dense, two standard deviations")
    if rows:  # what came before the worst end is of no interest
        ends = [row.loss for row in rows]
        margin = 0.15 * (max(ends) - min(ends)) + 0.02 * max(ends)
        axes.set_ylim(min(ends) - margin, max(ends) + 2 * margin)
        figure.legend(loc="outside right center", fontsize="small", frameon=False)
    axes.set(xscale="log", xlabel="bytes on a rank's link, one way, so far", ylabel="loss on what is held out")
    axes.set_title(setting.title, fontsize="medium")
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(
        str(part)
        for part in (
            setting.workload, setting.parameters, f"{setting.ranks}ranks", f"{setting.steps}steps", setting.optimizer,
            setting.schedule, setting.key[:6],
        )
    )  # fmt: skip
    file = folder / f"{name}.svg"
    with mpl.rc_context({"svg.hashsalt": setting.key}):  # the same numbers make the same file
        figure.savefig(file, metadata={"Date": None})
    return file


def _curve(row: Row) -> tuple[list[float], list[float]]:
    """Return bytes and loss at the points that all seeds have."""
    points = list(zip(*(outcome.points for outcome in row.outcomes.values()), strict=False))
    return [statistics.mean(p.wire for p in at) for at in points], [
        statistics.mean(p.loss for p in at) for at in points
    ]
