"""The first screen: what was trained, how good it is, and beside what."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import import_module
from operator import itemgetter

from models import Method
from training.optim import peak_lr
from training.protocols import MEASURES
from training.protocols.record import INTERVALS
from training.report.evaluation import Evaluation, best
from training.report.facts import duration, seen
from training.report.published import closest
from training.report.run import Run
from training.report.setting import setting_of

# What a share of the test videos stands for, by protocol, for a reader who knows none of the terms.
MEANT = {
    "retrieval": "the nearest training video shows the same action",
    "knn": "the nearest training videos together name the action",
    "linear": "a linear classifier on the frozen features names the action",
    "svm": "a linear classifier on the frozen features names the action",
    "finetune": "the network, fine-tuned on the labels, names the action",
    "semi": "a classifier, taught with a few of the labels, names the action",
}
# Of online retrieval, which needs no evaluation.
ONLINE = "knn_R@1"


def title(run: Run) -> str:
    """Method and data, with the data set's name where it is one that is known; of a run whose
    videos are not here, so that nobody knows how many steps it has, the method alone.
    """
    name = method_name(run.recipe.method.name)
    if not run.train:
        return name
    done = "pretrained" if run.is_done else "in pretraining"
    return f"{name}, {done} on {run.data_set or f'{len(run.train):,} videos'}"


def method_name(name: str) -> str:
    """As its class is written: ViCC of `vicc`."""
    module = import_module(f"models.methods.{name}")
    methods = (one for one in vars(module).values() if _is_method(one))
    return next(one.__name__ for one in methods if one.__module__ == module.__name__)


def _is_method(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, Method)


def lead(run: Run | None, evaluations: Sequence[Evaluation]) -> str:
    """The result in a few sentences; of a run that was not evaluated, how far it is."""
    for protocol in MEASURES:
        measured = [one for one in evaluations if protocol in one.results]
        if measured:
            own = best(measured)
            sentences = [
                _result(protocol, own),
                _gain(protocol, own, measured),
                _published(protocol, own, run),
            ]
            return " ".join(sentence for sentence in sentences if sentence)
    return progress(run)


def progress(run: Run) -> str:
    """How far the run is, and its newest retrieval."""
    if not run.metrics:
        return "No step is done yet."
    last = run.schedule[-1].last_step if run.schedule else 0
    of = f" of {last:,}" if last else ""
    spent = f", {duration(run.seconds)} so far" if run.times else ""
    stage = escape(run.metrics[-1]["stage"])
    return f"Step <strong>{run.step:,}</strong>{of}, in stage {stage}{spent}.{_online(run)}"


def summary(run: Run) -> str:
    """Network, work and time in one line."""
    recipe = run.recipe
    parts = [f"{recipe.backbone.name}, width {recipe.backbone.width}"]
    if len(run.schedule) == 1:
        stage = run.schedule[0].recipe
        rate = peak_lr(stage.optim, stage.data.batch_size)
        parts.append(f"batch {stage.data.batch_size}, effective lr {rate:g}")
    elif run.schedule:
        parts.append(f"{len(run.schedule)} stages")
    if run.metrics:
        parts.append(seen(run))
    if run.times:
        parts.append(duration(run.seconds))
    if run.lost:
        parts.append(f"not finite from step {run.lost:,} on")
    return " · ".join(escape(part) for part in parts)


def _result(protocol: str, own: Evaluation) -> str:
    result = own.results[protocol]
    name, share = _first(result)
    between = ""
    if ends := result.get(INTERVALS, {}).get(name):
        between = " (95 % interval {:.1f} – {:.1f})".format(*(100 * end for end in ends))
    return f"For <strong>{share:.1f} %</strong> of the test videos{between}, {MEANT[protocol]}."


def _gain(protocol: str, own: Evaluation, measured: Sequence[Evaluation]) -> str:
    """Beside the better of the baselines that have the measure, or chance where none has."""
    result = own.results[protocol]
    name, share = _first(result)
    baselines = [one for one in measured if one.is_baseline and one is not own]
    shares = [(one.results[protocol]["result"].get(name), one.name) for one in baselines]
    others = [(100 * other, called) for other, called in shares if other is not None]
    if not others:
        return f"By chance it would be {100 * result['chance'][name]:.1f} %."
    most, which = max(others, key=itemgetter(0))
    points = f"{share - most:+.1f}".replace("-", "−")
    ends = result.get(INTERVALS, {}).get(name, [1.0, 0.0])
    unsettled = 100 * ends[0] <= most <= 100 * ends[1]
    called = "The better baseline" if len(others) > 1 else "The baseline"
    text = f"{called}, {escape(which)}, reaches {most:.1f} %: "
    return f"{text}<strong>{points} points</strong>{', within the interval' * unsettled}."


def _published(protocol: str, own: Evaluation, run: Run | None) -> str:
    """The published number whose setting is nearest, where the data set is known."""
    name, _ = _first(own.results[protocol])
    setting = setting_of(own, protocol, run)
    if own.is_baseline or not (row := closest(protocol, own.classes, name, setting)):
        return ""
    alike = "the same setting" if row.is_alike(setting) else "the nearest setting"
    what = f"{row.method} ({row.described})"
    return escape(f"Published in {alike}: {row.values[name]:.1f} %, {what}.")


def _first(result: dict) -> tuple[str, float]:
    """The protocol's first measure and its share in per cent."""
    name = next(iter(result["chance"]))
    return name, 100 * result["result"][name]


def _online(run: Run) -> str:
    points = [(step, value) for _, step, value in run.series(ONLINE)]
    if not points:
        return ""
    (step, newest), (at, most) = points[-1], max(points, key=lambda point: point[1])
    highest = f", the highest {100 * most:.1f} % at step {at:,}" if at != step else ""
    return (
        f" Retrieval while training: R@1 <strong>{100 * newest:.1f} %</strong> at step {step:,}"
        f"{highest}."
    )
