"""Result tables: one of each protocol, with intervals, chance, and published numbers beside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.protocols import MEASURES
from training.protocols.compare import unlike
from training.protocols.record import INTERVALS, labelled
from training.report.evaluation import Evaluation, best
from training.report.known import data_set, title
from training.report.published import Published, by_nearness, described, published
from training.report.run import Run
from training.report.setting import Setting, setting_of

TITLES = {
    "retrieval": "Retrieval",
    "knn": "k nearest neighbours",
    "linear": "Linear probe",
    "svm": "Linear SVM",
    "finetune": "Fine-tuning",
    "semi": "Few labels",
}
EXPLAINED = {
    "retrieval": "R@k: one of the k nearest training videos has the class of the test video.",
    "knn": "The nearest training videos vote for a class.",
    "linear": "A linear classifier on frozen features names the class.",
    "svm": "A linear support vector machine on frozen features names the class.",
    "finetune": "The whole network learns the classes, from these weights on.",
    "semi": "A classifier, or the whole network, is taught with a few of the labels.",
}
Result = dict[str, Any]


def tables(evaluations: Sequence[Evaluation], run: Run | None = None) -> str:
    """Every protocol that was measured: a heading, a table and a note. run: whose encoder it was,
    for what it was trained on.
    """
    parts = []
    for protocol in MEASURES:
        rows = [one for one in evaluations if protocol in one.results]
        if not rows:
            continue
        own = best(rows)
        setting = setting_of(own, protocol, run)
        content = table(protocol, rows, own, setting)
        parts.append(f"<h3>{TITLES[protocol]}</h3>" + _scrolled(content, TITLES[protocol]))
        parts.append(f'<p class="note">{note(protocol, rows, setting)}</p>')
    return "\n".join(parts)


def table(protocol: str, rows: Sequence[Evaluation], own: Evaluation, setting: Setting) -> str:
    """Encoders, then chance, then what others have published: those first whose setting is nearest
    to that of `own`, and of each in what it is another.
    """
    results = [one.results[protocol] for one in rows]
    columns = list(dict.fromkeys(name for result in results for name in result["chance"]))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = [f'<thead><tr><th scope="col">encoder</th>{head}</tr></thead><tbody>']
    for one, result in zip(rows, results, strict=True):
        cells = "".join(_cell(result, name) for name in columns)
        kind = ' class="pretrained"' if one is own else ""
        lines.append(f'<tr{kind}><th scope="row">{_named(one)}</th>{cells}</tr>')
    chance = "".join(_share(results[0]["chance"].get(name)) for name in columns)
    lines.append(f'<tr class="chance"><th scope="row">chance</th>{chance}</tr>')
    others = by_nearness(published(protocol, data_set(rows[0].classes)), setting)
    lines += [_published_rows(row, columns, setting) for row in others]
    return "".join([*lines, "</tbody>"])


def note(protocol: str, rows: Sequence[Evaluation], setting: Setting) -> str:
    """How to read the table, of how many videos it is, and what makes rows differ."""
    result = rows[0].results[protocol]
    number = len(rows[0].classes)
    classes = f"{number} classes" if number > 1 else "1 class"
    sentences = [EXPLAINED[protocol], f"{classes}, {_counts(result)}."]
    if INTERVALS in result:
        sentences.append("Small: the 95 % interval of the share.")
    others = [one.results[protocol] for one in rows[1:]]
    if different := sorted({key for other in others for key in unlike(result, other)}):
        names = ", ".join(different)
        sentences.append(f"The rows were not measured alike: they differ in {names}.")
    if key := data_set(rows[0].classes):
        if published(protocol, key):
            sentences.append(
                f"In italics: published for {title(key)} under this protocol, those first whose "
                f"network, data and views are nearest. Here: {described(setting)}."
            )
        else:
            sentences.append(f"No published number of this protocol on {title(key)} is known here.")
    return escape(" ".join(sentences))


def _counts(result: Result) -> str:
    """Test and training videos, and a part's labels; of each split where there are several."""
    sets = {part: _listed(result[part]) for part in ("test", "train")}
    test = " + ".join(f"{one['evaluated']:,} of {one['of']:,}" for one in sets["test"])
    train = " + ".join(f"{one['evaluated']:,}" for one in sets["train"])
    splits = f", mean of {len(sets['test'])} splits" if len(sets["test"]) > 1 else ""
    few = " + ".join(filter(None, map(labelled, sets["train"])))
    labels = f", labels of {few}" if few else ""
    return f"{test} test videos, {train} training videos{labels}{splits}"


def _listed(one: Any) -> list:
    return one if isinstance(one, list) else [one]


def _named(one: Evaluation) -> str:
    """The row's name, and which checkpoint it is."""
    names = " + ".join(Path(name).name for name in one.checkpoint.split(" + "))
    file = "" if one.is_baseline else f"<small>{escape(names)}</small>"
    return f"{escape(one.name)}{file}"


def _cell(result: Result, name: str) -> str:
    if name not in result["result"]:
        return _share(None)
    interval = result.get(INTERVALS, {}).get(name)
    small = "{:.1f} – {:.1f}".format(*(100 * end for end in interval)) if interval else ""
    return _share(result["result"][name], small)


def _share(share: float | None, small: str = "") -> str:
    if share is None:
        return "<td>–</td>"
    percent = f"{100 * share:.1f}"
    more = f"&ensp;<small>{small}</small>" if small else ""
    return f'<td><span class="bar" style="width:{percent}%"></span>{percent} %{more}</td>'


def _published_rows(row: Published, columns: Sequence[str], own: Setting) -> str:
    """The figures, and under them what they were measured with, in what it differs, and who says
    so.
    """
    values = (row.values.get(name) for name in columns)
    cells = "".join(_share(value if value is None else value / 100) for value in values)
    said = escape(f"{row.described}. {row.beside(own)} Source: {row.source}.")
    return (
        f'<tr class="published"><th scope="row">{escape(row.method)}</th>{cells}</tr>'
        f'<tr class="said"><td colspan="{len(columns) + 1}"><span>{said}</span></td></tr>'
    )


def _scrolled(content: str, name: str) -> str:
    where = f'class="scroll" tabindex="0" role="region" aria-label="{name}"'
    return f'<div {where}><table class="results">{content}</table></div>'
