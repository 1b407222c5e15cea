"""A run and its evaluation as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from pipeline import Manifest
from training import config, features, stages
from training.gallery import Searched, gallery
from training.loss_chart import Curve, loss_chart
from training.optim import peak_lr
from training.results import MEASURES, Measured, gain, measures

TEMPLATE = Path(__file__).with_suffix(".html")
Facts = dict[str, str]


def write_report(
    path: str | Path,
    *,
    run: str | Path,
    pretrained: Measured,
    baselines: Sequence[Measured],
    train: str | Path,
    test: str | Path,
    seconds: Mapping[str, float],
) -> Path:
    """Write the report of the run folder `run`; the file is whole or absent.

    pretrained, baselines: what evaluate.py measured with the manifests `train` and `test`; the
    gallery shows the pretrained encoder above the first baseline. seconds: time of each stage of
    the work, by name. Raises DataError for a manifest, ConfigError for a recipe that is unreadable.
    """
    run, path = Path(run), Path(path)
    recipe = config.load(run / "config.yaml", [])
    train, test = Manifest.read(train), Manifest.read(test)
    schedule = stages.plan(recipe, len(train))
    times = {**seconds, "in all": sum(seconds.values())}
    encoders = [_searched(row) for row in (pretrained, baselines[0])]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{recipe.method.name} pretrained on {len(train):,} videos"),
        lead=lead(pretrained, baselines),
        charts="\n".join(charts(run / "metrics.jsonl")),
        table=table(pretrained, baselines),
        note=note(pretrained),
        recipe=_definitions(recipe_facts(recipe, schedule, train)),
        seconds=_definitions({name: duration(value) for name, value in times.items()}),
        gallery=gallery(encoders, train=train, test=test, clip=recipe.clip),
        environment=_environment(run / "env.json"),
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def lead(pretrained: Measured, baselines: Sequence[Measured]) -> str:
    """The result in one sentence for a reader who knows none of the terms."""
    points, best = gain(pretrained, baselines, "R@1")
    share, other = 100 * pretrained.share["R@1"], 100 * best.share["R@1"]
    difference = f"{points:+.1f}".replace("-", "−")
    return (
        f"For <strong>{share:.1f} %</strong> of the test videos, the nearest training video shows "
        f"the same action. The better baseline, {escape(best.name)}, reaches {other:.1f} %: "
        f"<strong>{difference} points</strong>."
    )


def table(pretrained: Measured, baselines: Sequence[Measured]) -> str:
    """Rows of the result table: every share with its count, and chance at the end."""
    rows = [*baselines[:1], pretrained, *baselines[1:]]
    columns = measures(rows)
    head = "".join(f'<th scope="col">{MEASURES[measure]}</th>' for measure in columns)
    lines = [f'<thead><tr><th scope="col">encoder</th>{head}</tr></thead><tbody>']
    for row in rows:
        cells = "".join(
            _cell(row.share[measure], f"{row.right(measure)} / {row.evaluated}")
            for measure in columns
        )
        kind = ' class="pretrained"' if row is pretrained else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(row.name)}</th>{cells}</tr>')
    cells = "".join(_cell(pretrained.chance[measure], "") for measure in columns)
    lines.append(f'<tr class="chance"><th scope="row">chance</th>{cells}</tr></tbody>')
    return "".join(lines)


def note(pretrained: Measured) -> str:
    """How to read the table: what was asked, of how many, and how exact it is."""
    error = 100 * pretrained.standard_error("R@1")
    failed = pretrained.of - pretrained.evaluated
    lost = f" {failed} of {pretrained.of} test videos did not decode and are left out." * bool(
        failed
    )
    return (
        f"R@k: one of the k nearest of {pretrained.gallery} training videos has the class of the "
        f"test video. Linear top-1: a linear classifier on frozen features names the class. "
        f"{len(pretrained.classes)} classes, {pretrained.evaluated} test videos.{lost} One test "
        f"video is {100 / pretrained.evaluated:.2f} points; the standard error of the pretrained "
        f"R@1 is {error:.1f} points."
    )


def charts(metrics: Path) -> list[str]:
    """A chart of every scalar whose name begins with `loss`, the main loss first."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    names = sorted({name for line in lines for name in line if name.startswith("loss")})
    drawn = []
    for name in names:
        own = [line for line in lines if name in line]
        curves = [
            Curve(
                stage,
                np.array([line["step"] for line in own if line["stage"] == stage]),
                np.array([line[name] for line in own if line["stage"] == stage]),
            )
            for stage in dict.fromkeys(line["stage"] for line in own)
        ]
        drawn.append(loss_chart(curves, name=name.replace("_", " ")))
    return drawn


def recipe_facts(recipe: config.Recipe, schedule: Sequence[stages.Stage], train: Manifest) -> Facts:
    """What was trained, on what and for how long, in the words of the recipe."""
    videos = (train[row] for row in range(len(train)))
    minutes = sum(float(v.frames / v.fps) for v in videos if v.fps) / 60
    clip, batch = recipe.clip, recipe.data.batch_size
    options = recipe.method_options()
    facts = {
        "method": recipe.method.name,
        "network": f"{recipe.backbone.name}, width {recipe.backbone.width}",
        "data": f"{len(train)} videos, {minutes:.1f} min in all, their labels unused",
        "clip": f"{clip.frames} frames, stride {clip.stride}, {recipe.augment.size} × "
        f"{recipe.augment.size} pixels",
        "batch": f"{batch} videos",
    }
    if "queue_size" in options:
        facts["queue"] = f"{options['queue_size']} keys"
    for stage in schedule:
        steps = stage.last_step - stage.first_step
        optim = stage.recipe.optim
        facts[f"stage {stage.name}"] = (
            f"{steps} steps ({steps / stage.steps_per_epoch:.1f} epochs), {optim.name}, "
            f"effective lr {peak_lr(optim, batch):g}"
        )
    return facts


def duration(seconds: float) -> str:
    """As 8.1 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _searched(row: Measured) -> Searched:
    test, train = (features.read(row.folder / f"features_{p}.npz")[1] for p in ("test", "train"))
    return Searched(row.name, test, train)


def _cell(share: float, count: str) -> str:
    percent = f"{100 * share:.1f}"
    small = f"<small>{count}</small>" if count else ""
    return f'<td><span class="bar" style="width:{percent}%"></span>{percent} %{small}</td>'


def _definitions(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())


def _environment(path: Path) -> str:
    env = json.loads(path.read_text())
    named = f"torch {env['torch']}, {env['device']}, commit {env['git']}"
    return escape(f"{named} · {env['command']}")
