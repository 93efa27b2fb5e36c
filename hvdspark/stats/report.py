"""The report of a run as one HTML file: no script, no outside request, every text escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
import yaml

if TYPE_CHECKING:
    from hvdspark.stats.summary import TrainingStats

__all__ = ["render", "render_tables"]

_TABLES = """
<h2>Epochs</h2>
<table>
<tr>{% for name in epoch_columns %}<th>{{ name | replace("_", " ") }}</th>{% endfor %}</tr>
{% for epoch in stats.history %}<tr>{% for name in epoch_columns %}<td>{{ epoch[name] | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Ranks</h2>
<table>
<tr><th>rank</th><th>host</th><th>steps</th><th>exchanges</th><th>examples</th><th>bytes sent</th><th>dense bytes</th>
<th>density</th><th>threshold</th><th>clipped mass</th></tr>
{% for rank in stats.ranks %}<tr><td>{{ rank.rank }}</td><td>{{ rank.host }}</td><td>{{ rank.steps | figure }}</td>
<td>{{ rank.exchanges | figure }}</td><td>{{ rank.examples | figure }}</td><td>{{ rank.bytes_sent | figure }}</td>
<td>{{ rank.dense_bytes | figure }}</td><td>{{ rank.density | figure }}</td><td>{{ rank.threshold | figure }}</td>
<td>{{ rank.clipped_mass | figure }}</td></tr>
{% endfor %}</table>
<h2>Seconds by phase</h2>
<table>
<tr><th>rank</th>{% for name in phases %}<th>{{ name | replace("_", " ") }}</th>{% endfor %}</tr>
{% for rank in stats.ranks %}<tr><td>{{ rank.rank }}</td>
{% for name in phases %}<td>{{ rank.seconds.get(name, 0.0) | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>Staging took {{ stats.staging_s | figure }} s, training with its start {{ stats.training_s | figure }} s,
all together {{ stats.total_s | figure }} s.</p>
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ stats.title }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: right; white-space: nowrap; }
th { color: #555; font-weight: 600; }
pre { background: #f6f6f6; padding: .75rem; overflow-x: auto; }
</style></head><body>
<h1>{{ stats.title }}</h1>
{% include "tables" %}
<h2>Options</h2>
<pre>{{ options }}</pre>
</body></html>
"""


def render(stats: TrainingStats) -> str:
    """Return the whole page."""
    return _render("page", stats)


def render_tables(stats: TrainingStats) -> str:
    """Return the tables alone, as notebooks show them."""
    return _render("tables", stats)


def _render(template: str, stats: TrainingStats) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader({"page": _PAGE, "tables": _TABLES})
    )
    environment.filters["figure"] = _figure
    return environment.get_template(template).render(
        stats=stats,
        phases=list(dict.fromkeys(name for rank in stats.ranks for name in rank.seconds)),
        epoch_columns=list(stats.history[0]),
        options=yaml.safe_dump(stats.options, sort_keys=False),
    )


def _figure(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"
