"""The templates of the report (jinja2). What is shown is laid out elsewhere; here is how it is written."""

__all__ = ["TEMPLATES"]

_TABLES = """
<h2>Epochs</h2>
<table>
<tr>{% for name in epoch_columns %}<th>{{ name | told }}</th>{% endfor %}</tr>
{% for epoch in stats.history %}<tr>{% for name in epoch_columns %}<td>{{ epoch[name] | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Ranks</h2>
<table>
<tr><th>rank</th><th class="host">host</th><th>steps</th><th>exchanges</th><th>examples</th><th>bytes sent</th>
<th>dense bytes</th>
<th>density</th><th>threshold</th><th>clipped mass</th></tr>
{% for rank in stats.ranks %}<tr><td>{{ rank.rank }}</td><td class="host" title="{{ rank.host }}">{{ rank.host }}</td>
<td>{{ rank.steps | figure }}</td>
<td>{{ rank.exchanges | figure }}</td><td>{{ rank.examples | figure }}</td><td>{{ rank.bytes_sent | figure }}</td>
<td>{{ rank.dense_bytes | figure }}</td><td>{{ rank.density | figure }}</td><td>{{ rank.threshold | figure }}</td>
<td>{{ rank.clipped_mass | figure }}</td></tr>
{% endfor %}</table>
<h2>Seconds by phase</h2>
<table>
<tr><th>rank</th>{% for name in phases %}<th>{{ name | told }}</th>{% endfor %}</tr>
{% for rank in stats.ranks %}<tr><td>{{ rank.rank }}</td>
{% for name in phases %}<td>{{ rank.seconds.get(name, 0.0) | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>Staging took {{ stats.staging_s | figure }} s, training with its start {{ stats.training_s | figure }} s,
all together {{ stats.total_s | figure }} s.</p>
"""

_LOSS = """
<h2>Loss</h2>
<svg viewBox="-70 -12 850 {{ loss.height + 50 }}" role="img" aria-label="loss over epochs">
{% for y, text in loss.y_ticks %}
<line x1="0" x2="{{ loss.width }}" y1="{{ y }}" y2="{{ y }}" class="grid"/><text x="-8" y="{{ y + 4 }}"
class="end">{{ text }}</text>
{% endfor %}
{% for x, text in loss.x_ticks %}
<text x="{{ x }}" y="{{ loss.height + 18 }}" class="middle">{{ text }}</text>
{% endfor %}
<text x="{{ loss.width / 2 }}" y="{{ loss.height + 35 }}" class="middle">epoch</text>
{% for curve in loss.curves %}
<g class="curve{{ loop.index }}"><polyline points="{% for x, y in curve.points %}{{ x }},{{ y }} {% endfor %}"/>
{% if curve.points | length <= 60 %}
{% for x, y in curve.points %}<circle cx="{{ x }}" cy="{{ y }}" r="3"/>{% endfor %}
{% endif %}</g>
{% endfor %}
</svg>
<p class="legend">{% for curve in loss.curves %}<span><svg class="key" viewBox="0 0 24 10"><g
class="curve{{ loop.index }}">
<polyline points="0,5 24,5"/></g></svg>{{ curve.name }}</span>{% endfor %}</p>
"""

_TIMELINE = """
{% macro legend(names) %}
<p class="legend">{% for name in names %}<span><svg class="key" viewBox="0 0 14 14"><rect width="14" height="14"
fill="{{ name | colour }}"/></svg>{{ name | told }}</span>{% endfor %}</p>
{% endmacro %}
{% macro timeline(shown, label) %}
<svg viewBox="-150 -2 940 {{ shown.height + 26 }}" role="img" aria-label="{{ label }}">
{% for x, text in shown.ticks %}
<line x1="{{ x }}" x2="{{ x }}" y1="0" y2="{{ shown.height }}" class="grid"/>
<text x="{{ x }}" y="{{ shown.height + 14 }}"
class="middle">{{ text }}</text>
{% endfor %}
{% for lane in shown.lanes %}
<rect x="0" y="{{ lane.y }}" width="{{ shown.width }}" height="20" class="lane"/>
<text x="-8" y="{{ lane.y + 14 }}" class="end">{{ lane.name }}</text>
{% for area in lane.areas %}
<path d="{{ area.path }}" fill="{{ area.name | colour }}"><title>{{ area.name | told }}</title></path>
{% endfor %}
{% for box in lane.boxes %}
<rect x="{{ box.x }}" y="{{ box.y }}" width="{{ box.width }}" height="{{ box.height }}" fill="{{ box.name | colour }}"
{% if box.width > 3 %}class="box"{% endif %}><title>{{ box.title | told }}</title></rect>
{% if box.label %}
<text x="{{ box.x + box.width / 2 }}" y="{{ box.y + 14 }}"
class="middle" style="fill:{{ box.name | ink }}">{{ box.label }}</text>
{% endif %}
{% endfor %}
{% endfor %}
</svg>
{{ legend(shown.names) }}
{% endmacro %}
"""

_PHASES = """
{% from "timeline" import legend, timeline %}
<h2>Where the time went</h2>
<ul class="diagnosis">{% for sentence in diagnosis %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% if hidden %}<p>Pictures show the first ranks; {{ hidden }} more are in the tables and in the trace.</p>{% endif %}
{% if bars %}
<h2>The mean step of each rank</h2>
<svg
viewBox="-150 -2 990 {{ bars | length * 26 + 4 }}" role="img" aria-label="seconds of a mean step by phase and rank">
{% for bar in bars %}{% set y = loop.index0 * 26 %}
<text x="-8" y="{{ y + 14 }}" class="end">rank {{ bar.rank }}</text>
{% for part in bar.segments %}
{% if part.width > 0 %}
<rect x="{{ part.x }}" y="{{ y }}" width="{{ part.width }}" height="20" fill="{{ part.name | colour }}"
{% if part.width > 3 %}class="box"{% endif %}><title>{{ part.title }}</title></rect>
{% if part.label %}
<text x="{{ part.x + part.width / 2 }}" y="{{ y + 14 }}"
class="middle" style="fill:{{ part.name | ink }}">{{ part.label }}</text>
{% endif %}
{% endif %}
{% endfor %}
<text x="{{ bar.segments[-1].x + bar.segments[-1].width + 6 }}" y="{{ y + 14 }}">{{ bar.text }}</text>
{% endfor %}
</svg>
{{ legend(bar_names) }}
<p class="note">On the thread that trains, without the first step. What is in no phase is "other".</p>
{% endif %}
<h2>The whole run</h2>
{{ timeline(run, "phases of driver and ranks over the whole run") }}
<p class="note">The height of a colour is its share of that moment.
{% if stride > 1 %}One of {{ stride }} steps was kept, and stands for the others. {% endif %}
{% if stats.traces | length > 1 %}Times of ranks may be off rank 0's by {{ uncertainty_ms | figure }} ms.{% endif %}</p>
{% if steps %}
<h2>Steps of usual length</h2>
{{ timeline(steps, "phases of a few steps on all ranks") }}
{% endif %}
<details><summary>Table of phases</summary>
<table>
<tr><th>rank</th><th class="host">phase</th><th>count</th><th>total s</th><th>mean ms</th><th>p50 ms</th>
<th>p95 ms</th><th>max ms</th></tr>
{% for line in table %}
<tr><td>{{ line.rank }}</td><td class="host">{{ line.phase | told }}</td><td>{{ line.count | figure }}</td>
<td>{{ line.total_s | figure }}</td><td>{{ (line.mean_s * 1e3) | figure }}</td>
<td>{{ (line.p50_s * 1e3) | figure }}</td>
<td>{{ (line.p95_s * 1e3) | figure }}</td><td>{{ (line.max_s * 1e3) | figure }}</td></tr>
{% endfor %}</table></details>
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ stats.title }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222;
  background: #fff; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: right; white-space: nowrap; }
th { color: #555; font-weight: 600; }
.host { text-align: left; max-width: 12rem; overflow: hidden; text-overflow: ellipsis; }
pre { background: #f6f6f6; padding: .75rem; overflow-x: auto; }
svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: #444; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: #e4e4e4; } .lane { fill: #f3f3f3; } .box { stroke: #fff; stroke-width: .75; }
.curve1, .curve2 { fill: none; stroke: #0072b2; stroke-width: 2; } .curve1 circle { fill: #0072b2; }
.curve2 { stroke: #d55e00; stroke-dasharray: 6 3; } .curve2 circle { fill: #fff; stroke-dasharray: none; }
.legend span { margin-right: 1.2rem; white-space: nowrap; font-size: 13px; }
.key { width: auto; height: .9em; margin-right: .4em; vertical-align: -.1em; }
.note { color: #555; font-size: 13px; } .diagnosis { padding-left: 1.2rem; }
summary { cursor: pointer; margin-bottom: 1rem; }
</style></head><body>
<h1>{{ stats.title }}</h1>
{% if loss %}{% include "loss" %}{% endif %}
{% if stats.traces %}{% include "phases" %}{% endif %}
{% include "tables" %}
<h2>Options</h2>
<pre>{{ options }}</pre>
</body></html>
"""

TEMPLATES = {"loss": _LOSS, "page": _PAGE, "phases": _PHASES, "tables": _TABLES, "timeline": _TIMELINE}
