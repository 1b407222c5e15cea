"""The page: which sections a run and its evaluations give, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from pipeline.whole import whole_file
from training.report import classes, scatter
from training.report.chart import Steps, chart, curves, small_chart, steps_of
from training.report.evaluation import Evaluation, best, place_of
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
RETRIEVAL = {"knn_R@1": "R@1 while training, %", "knn_R@5": "R@5 while training, %"}


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
    without a run and for results that do not belong to the files beside them.
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
    small += [(label, _per_cent(run.series(name))) for name, label in RETRIEVAL.items()]
    small.append(("clips a second", run.series("clips_per_second")))
    small.append(("data wait, % of a step", _waits(run)))
    others = [name for name in names if name not in {*parts, *RETRIEVAL}]
    more = [(name.replace("_", " "), run.series(name)) for name in others]
    return (
        chart(loss, name="loss", steps=steps)
        + _small_charts(small, steps)
        + f'<p class="note">{_how_to_read(run, steps)}</p>'
        + (f"<details><summary>All other figures</summary>{_small_charts(more, steps)}</details>"
           if more else "")
    )  # fmt: skip


def _small_charts(named: Sequence[tuple[str, list]], steps: Steps) -> str:
    drawn = "".join(
        small_chart(curves(points), name=label, steps=steps) for label, points in named if points
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
    """What needs answers and features, and pictures where the videos are still there."""
    own, pictures = best(evaluations), Pictures(run.recipe.clip)
    if own.answers:
        first = ", on the first of the splits" if own.details != own.folder else ""
        how = escape(f"Answers of {own.name}, by {own.answers.how}{first}.")
        yield _section("Classes", f'<p class="note">{how}</p>{classes.section(own.answers)}')
    folders = [*manifests, Path(run.recipe.data.train).parent]
    train, test = (own.manifest(part, folders) for part in ("train", "test"))
    features = own.features("test")
    if test is None or features is None:
        yield '<p class="note">No pictures: the manifests of the test videos were not found.</p>'
        return
    yield _section("Features", scatter.section(features, test, pictures))
    encoders = _searched(own, evaluations)
    if train is not None and encoders:
        figures = gallery(encoders, train=train, test=test, pictures=pictures)
        yield _section("Nearest videos", f"{GALLERY_NOTE}{figures}")


def _searched(own: Evaluation, evaluations: Sequence[Evaluation]) -> list[Searched]:
    """That encoder's features and those of the first baseline of the same videos."""
    shown = [own, *(one for one in evaluations if one.is_baseline and one is not own)][:2]
    alike = [one for one in shown if _fingerprints(one) == _fingerprints(own)]
    found = [(one.name, one.features("test"), one.features("train")) for one in alike]
    return [Searched(name, test, train) for name, test, train in found if test and train]


def _fingerprints(one: Evaluation) -> list[str]:
    return [one.parts(part)[0]["fingerprint"] for part in ("train", "test")]


def _recall(one: Evaluation) -> float:
    return 100 * one.results["retrieval"]["result"]["R@1"]


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
