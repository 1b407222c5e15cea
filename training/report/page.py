"""The page: which sections a run and its evaluations give, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from pipeline import Manifest
from pipeline.whole import whole_file
from training.report import classes, scatter
from training.report.chart import Steps, chart, curves, small_chart, steps_of
from training.report.evaluation import PARTS, Evaluation, best, place_of
from training.report.facts import recipe_facts, times
from training.report.gallery import Searched, gallery
from training.report.headline import lead, summary, title
from training.report.pictures import Pictures
from training.report.run import Run, read_run
from training.report.tables import tables

TEMPLATE = Path(__file__).with_suffix(".html")
LISTED_VIDEOS = 50
GALLERY_NOTE = """<p class="note">Each test video with the training videos whose features are
nearest, the nearest first. ✓ and a solid outline: the same class; ✗ and a dashed one: another. The
queries are evenly spread over the test set, not picked.</p>"""
RETRIEVAL = {f"knn_R@{k}": (f"R@{k} while training, %", k) for k in (1, 5)}


def write_report(
    path: str | Path,
    *,
    run: str | Path,
    evaluations: Sequence[Evaluation] = (),
    manifests: Sequence[Path] = (),
    seconds: Mapping[str, float] = {},
) -> Path:
    """Write the report of the run folder `run` as it is now; the file is whole or absent.

    evaluations: in the order of their rows; the first that is no baseline is the one that all else
    is about. manifests: folders in which theirs are looked for, besides those near their results
    and of the run. seconds: time of each part of the work, by name. Raises ConfigError for a folder
    without a run, and for answers of none of the results beside them.
    """
    own, path = read_run(Path(run)), Path(path)
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title(own)),
        lead=lead(own, evaluations),
        summary=summary(own),
        sections="\n".join(sections(own, evaluations, manifests, dict(seconds))),
        environment=_environment(own.environment),
    )
    with whole_file(path) as file:
        file.write(page.encode("utf-8", "replace"))
    return path


def sections(
    run: Run, evaluations: Sequence[Evaluation], manifests: Sequence[Path], seconds: dict
) -> Iterator[str]:
    """HTML of every section that there is something for."""
    if evaluations:
        yield _section("Results", tables(evaluations, run))
    yield _section("Training", charts(run))
    recipe, spent = _definitions(recipe_facts(run)), _definitions(times(run, seconds))
    both = _section("Recipe", f"<dl>{recipe}</dl>") + _section("Time", f"<dl>{spent}</dl>")
    yield f'<section class="columns">{both}</section>'
    if evaluations:
        yield from _of_videos(run, evaluations, manifests)
    if listed := damaged(run, evaluations):
        yield _section("Videos that did not decode", listed)


def charts(run: Run) -> str:
    """The loss; and smaller the parts of it, retrieval while training, and the pace. All have the
    steps of the run on their horizontal axes.
    """
    if not run.metrics:
        return '<p class="note">No step is done yet.</p>'
    loss = curves(run.series("loss"))
    steps = steps_of(loss)
    names = sorted({name for entry in run.metrics for name in entry} - {"step", "stage", "loss"})
    parts = [name for name in names if name.startswith("loss_")]
    small = [(name.replace("_", " "), run.series(name)) for name in parts]
    small += [(label, _per_cent(run.series(name))) for name, (label, _) in RETRIEVAL.items()]
    shares = {label: run.online_chance(k) for label, k in RETRIEVAL.values()}
    chance = {label: 100 * share for label, share in shares.items() if share is not None}
    small.append(("clips a second", run.series("clips_per_second")))
    small.append(("data wait, % of a step", _waits(run)))
    others = [name for name in names if name not in {*parts, *RETRIEVAL}]
    more = [(name.replace("_", " "), run.series(name)) for name in others]
    return (
        chart(loss, name="loss", steps=steps)
        + _small_charts(small, steps, chance)
        + f'<p class="note">{_how_to_read(run, steps)}</p>'
        + (f"<details><summary>All other figures</summary>{_small_charts(more, steps)}</details>"
           if more else "")
    )  # fmt: skip


def _small_charts(
    named: Sequence[tuple[str, list]], steps: Steps, chance: Mapping[str, float] = {}
) -> str:
    drawn = "".join(
        small_chart(curves(points), name=label, steps=steps, chance=chance.get(label))
        for label, points in named
        if points
    )
    return f'<div class="charts">{drawn}</div>'


def _how_to_read(run: Run, steps: Steps) -> str:
    sentences = [
        "Thin: each step, or the mean of a few. Bold: moving mean. Points: every measurement.",
        "What is beyond the scale runs along its edge.",
    ]
    if len(steps.stages) > 1:
        stages = ", ".join(f"{n} {name}" for n, (name, _) in enumerate(steps.stages, 1))
        sentences.append(f"A dashed line marks the start of a stage: {escape(stages)}.")
    if any(run.series(name) for name in RETRIEVAL):
        sentences.append("The clips a second are fewer in a step that retrieval is measured after.")
    return " ".join(sentences)


def damaged(run: Run, evaluations: Sequence[Evaluation]) -> str:
    """Videos that were left out, in training and in evaluation; empty where there are none."""
    found = [("training", entry) for entry in run.quarantined]
    found += [(one.name, entry) for one in evaluations for entry in one.failed]
    if not found:
        return ""
    listed: dict[tuple[str, str], list[tuple[str, dict]]] = {}
    for where, entry in found:
        listed.setdefault(place_of(entry), []).append((where, entry))
    rows = "".join(_damaged(group) for group in list(listed.values())[:LISTED_VIDEOS])
    more = len(listed) - LISTED_VIDEOS
    note = f'<p class="note">{more} more are in quarantine.jsonl and the results.</p>' * (more > 0)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("code", "file", "what", "found by"))
    table = f'<table class="damaged"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Videos">{table}</div>{note}'


def _damaged(found: list[tuple[str, dict]]) -> str:
    """The row of one video and of all who found it."""
    entry, who = found[0][1], ", ".join(dict.fromkeys(where for where, _ in found))
    cells = (entry["code"], entry["path"], entry["detail"], who)
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _of_videos(
    run: Run, evaluations: Sequence[Evaluation], manifests: Sequence[Path]
) -> Iterator[str]:
    """What needs answers and features, and pictures where the videos are still there; and a line
    for what is not shown.
    """
    own, pictures = best(evaluations), Pictures(run.recipe.clip)
    folders = [*manifests, Path(run.recipe.data.train).parent]
    kept = {part: own.kept(part) for part in PARTS}
    sets = {part: own.manifest(part, folders) for part in PARTS}
    lacks = {part: kept[part].why or _unless_found(sets[part], part) for part in PARTS}
    missing = {
        "classes": "" if own.answers else kept["test"].why or kept["train"].why,
        "features": lacks["test"],
        "nearest videos": lacks["test"] or lacks["train"],
    }
    if own.answers:
        how = escape(f"Answers of {own.name}, by {own.answers.how}.")
        yield _section("Classes", f'<p class="note">{how}</p>{classes.section(own.answers)}')
    if not missing["features"]:
        yield _section("Features", scatter.section(kept["test"].features, sets["test"], pictures))
    if not missing["nearest videos"]:
        encoders, without = _searched(own, evaluations)
        figures = gallery(encoders, train=sets["train"], test=sets["test"], pictures=pictures)
        yield _section("Nearest videos", f"{GALLERY_NOTE}{_not_shown(without)}{figures}")
    yield _not_shown(missing)


def _searched(
    own: Evaluation, evaluations: Sequence[Evaluation]
) -> tuple[list[Searched], dict[str, str]]:
    """That encoder's features and those of the first baseline of the same videos; and why a name
    is not among them.
    """
    others = [one for one in evaluations if one.is_baseline and one.compared and one is not own]
    baselines = [one for one in others if one.videos == own.videos]
    encoders, without = [], {}
    for one in [own, *baselines[:1]]:
        train, test = (one.kept(part) for part in PARTS)
        if why := test.why or train.why:
            without[one.name] = why
        else:
            encoders.append(Searched(one.name, test.features, train.features))
    return encoders, without


def _unless_found(manifest: Manifest | None, part: str) -> str:
    sets = {"train": "training", "test": "test"}
    return f"the manifest of the {sets[part]} videos was not found" if manifest is None else ""


def _not_shown(missing: Mapping[str, str]) -> str:
    """A line for each reason that something is missing for; by name, with empty reasons for what
    is there.
    """
    reasons = dict.fromkeys(why for why in missing.values() if why)
    lines = []
    for reason in reasons:
        names = ", ".join(name for name, why in missing.items() if why == reason)
        lines.append(f'<p class="note">{escape(f"Not shown: {names}, since {reason}.")}</p>')
    return "".join(lines)


def _per_cent(points: list[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    return [(stage, step, 100 * value) for stage, step, value in points]


def _waits(run: Run) -> list[tuple[str, int, float]]:
    seconds = {entry["step"]: entry["seconds"] for entry in run.times}
    points = run.series("data_wait_seconds")
    return [(stage, step, 100 * value / seconds[step]) for stage, step, value in points]


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _definitions(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())


def _environment(env: Mapping[str, str]) -> str:
    if not env:
        return ""
    named = f"torch {env['torch']}, {env['device']}, commit {env['git']}"
    return escape(f"{named} · {env['command']}")
