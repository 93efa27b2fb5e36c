"""The report of a run as one HTML file: no script, no outside request, every text escaped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from hvdspark.stats.charts import bars, loss_chart
from hvdspark.stats.colours import colour, in_order, ink
from hvdspark.stats.diagnosis import diagnose, mean_steps
from hvdspark.stats.templates import TEMPLATES
from hvdspark.stats.timeline import LANES, few_steps, whole_run

if TYPE_CHECKING:
    from hvdspark.stats.summary import TrainingStats

__all__ = ["render", "render_tables"]


def render(stats: TrainingStats) -> str:
    """Return the whole page."""
    steps = mean_steps(stats.traces)
    shown = bars(steps[:LANES])
    return _render(
        "page",
        stats,
        loss=loss_chart(stats.history),
        options=yaml.safe_dump(stats.options, sort_keys=False),
        diagnosis=diagnose(stats.traces, stats.driver) if stats.traces else (),
        bars=shown,
        bar_names=in_order(segment.name for bar in shown for segment in bar.segments if segment.width > 0),
        run=whole_run(stats.driver, stats.traces) if stats.traces else None,
        steps=few_steps(stats.traces),
        hidden=max(len(stats.traces) - LANES, 0),
        stride=max((trace.stride for trace in stats.traces), default=1),
        uncertainty_ms=max((trace.uncertainty_s for trace in stats.traces), default=0.0) * 1e3,
        table=stats.phases[: 40 * LANES],
    )


def render_tables(stats: TrainingStats) -> str:
    """Return the tables alone, as notebooks show them."""
    return _render("tables", stats)


def _render(template: str, stats: TrainingStats, **facts: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(TEMPLATES), trim_blocks=True
    )
    environment.filters.update(figure=_figure, colour=colour, ink=ink, told=_told)
    return environment.get_template(template).render(
        stats=stats,
        phases=list(dict.fromkeys(name for rank in stats.ranks for name in rank.seconds)),
        epoch_columns=list(stats.history[0]),
        **facts,
    )


def _told(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):  # of that phase no single one was kept
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"
