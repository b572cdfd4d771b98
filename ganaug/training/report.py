"""The page that a run leaves for people: the last pictures, the curves, the settings."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from ganaug.files import write_atomic
from ganaug.training.run import Run
from ganaug.training.translating import TRANSLATION_MODELS

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ganaug run {{ name }}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
img{max-width:100%}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
pre{background:#f5f5f5;padding:1rem;overflow:auto}</style>
<h1>Run {{ name }}</h1>
<p>{{ last.kimg }} thousand images shown in {{ "%.1f"|format(last.seconds / 60) }} minutes
({{ last.images_per_second }} images/s). {{ last.skipped_steps }} steps were skipped for non-finite numbers.</p>
{% if translates %}<h2>Translated images</h2>
<p>Training images, below them their translations, and what they are to be compared with{{ plane }}.</p>
{% else %}<h2>Synthetic images</h2>
<p>One row a class, always from the same latents{{ plane }}.</p>
{% endif %}<img alt="Images that the generator makes" src="data:image/png;base64,{{ picture }}">
<h2>Diversity</h2>
<p>Mean pixel distance between generated images of a {{ "domain" if translates else "class" }}, over the same for its
real images. 1 is as diverse as the data; near
0 it shows one image again and again.</p>
<table><tr><th>{{ "domain" if translates else "class" }}</th><th>training images</th><th>diversity</th></tr>
{% for class, value in last.diversity_by_class.items() %}
<tr><td>{{ class }}</td><td>{{ counts.get(class, "") }}</td><td>{{ "%.2f"|format(value) }}</td></tr>
{% endfor %}</table>
<h2>Over the training</h2>
{% if alarms %}<p>The samples of a class became one image, or left the real ones, and the run went back to its best
state: {{ alarms|join("; ") }}.</p>
{% endif %}{% if "coverage" in last %}<p>Coverage: the share of real images that have a generated one in their
neighborhood; agreement: the share of generated images that a classifier takes for their
{{ "domain" if translates else "class" }}. The dotted lines are what real images reach. The classifier was trained on
the training images: this watches the training, and is no evidence that the images are good.</p>
{% elif last.unwatched %}<p>Not watched for collapse: {{ last.unwatched }}</p>
{% endif %}<img alt="Curves over the training: {{ "coverage, agreement, " if "coverage" in last }}diversity and losses"
src="data:image/png;base64,{{ curves }}">
<h2>Settings</h2><pre>{{ settings }}</pre></html>
"""


def write_report(run: Run) -> None:
    """Write `report.html` from the run's metrics and pictures; nothing is loaded from elsewhere."""
    import jinja2

    rows = run.metrics()
    pictures = sorted(run.images.glob("*.png"))
    if not rows or not pictures:
        return
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    config = run.config()
    html = page.render(
        name=run.path.resolve().name,
        last=rows[-1],
        alarms=[row["alarm"] for row in rows if "alarm" in row],
        counts=run.config_file().get("images", {}),
        translates=config.model in TRANSLATION_MODELS,
        picture=base64.b64encode(pictures[-1].read_bytes()).decode(),
        curves=base64.b64encode(_curves(rows)).decode(),
        plane=", the central axial plane of each volume" if config.size and len(config.size) == 3 else "",
        settings=json.dumps(config.to_dict(), indent=2),
    )
    write_atomic(run.report_path, html.encode())


def _curves(rows: list[dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    alarms = [row for row in rows if "alarm" in row]
    rows = _last_way(rows)
    watched = [row for row in rows if "coverage" in row]
    figure = Figure(figsize=(9, 6 if watched else 3), layout="constrained")
    panels = figure.subplots(2 if watched else 1, 2, squeeze=False).ravel()
    kimg = [row["kimg"] for row in rows]
    panels[0].plot(kimg, [row["diversity"] for row in rows], "o-", label="mean of the classes")
    panels[0].plot(kimg, [row["diversity_least"] for row in rows], "o-", label="least class")
    panels[0].set(xlabel="thousand images", ylabel="diversity over real", ylim=(0, None))
    for key in ("loss_d", "loss_g"):
        panels[1].plot(kimg, [row.get(key) for row in rows], "o-", label=key)
    panels[1].set(xlabel="thousand images", ylabel="loss at the snapshot")
    for axes, key in zip(panels[2:], ("coverage", "agreement"), strict=bool(watched)):
        seen = [row["kimg"] for row in watched]
        axes.plot(seen, [row[key] for row in watched], "o-", label="mean of the classes")
        axes.plot(seen, [row[f"{key}_least"] for row in watched], "o-", label="least class")
        if f"{key}_real" in watched[-1]:
            axes.axhline(watched[-1][f"{key}_real"], color="0.5", linestyle=":", label="real images, mean")
        axes.set(xlabel="thousand images", ylabel=key, ylim=(0, 1.02))
    for axes in panels:
        for row in alarms:
            axes.axvline(row["kimg"], color="tab:red", linestyle="--", label="collapse" if row is alarms[0] else None)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _last_way(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the snapshots on the way to the last one: where the run went back, those that it left behind are out."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept = [before for before in kept if before["kimg"] < row["kimg"] and "alarm" not in before]
        kept.append(row)
    return kept
