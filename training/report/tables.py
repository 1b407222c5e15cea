"""Result tables: one of each protocol, with intervals, chance, and published numbers beside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.config import differences
from training.protocols import MEASURES
from training.protocols.compare import protocol_of
from training.protocols.record import INTERVALS
from training.report.evaluation import Evaluation, best
from training.report.published import Published, data_set, published, title

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
    "semi": "A linear classifier on frozen features, taught with a few of the labels.",
}
Result = dict[str, Any]


def tables(evaluations: Sequence[Evaluation]) -> str:
    """Every protocol that was measured: a heading, a table and a note."""
    own = best(evaluations)
    parts = []
    for protocol in MEASURES:
        rows = [one for one in evaluations if protocol in one.results]
        if not rows:
            continue
        parts.append(f"<h3>{TITLES[protocol]}</h3>" + _scrolled(table(protocol, rows, own)))
        parts.append(f'<p class="note">{note(protocol, rows)}</p>')
    return "\n".join(parts)


def table(protocol: str, rows: Sequence[Evaluation], own: Evaluation) -> str:
    """Encoders, then chance, then what others have published."""
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
    others = published(protocol, data_set(rows[0].classes))
    lines += [_published_row(row, columns) for row in others]
    return "".join([*lines, "</tbody>"])


def note(protocol: str, rows: Sequence[Evaluation]) -> str:
    """How to read the table, of how many videos it is, and what makes rows differ."""
    result = rows[0].results[protocol]
    sentences = [EXPLAINED[protocol], f"{len(rows[0].classes)} classes, {_counts(result)}."]
    if INTERVALS in result:
        sentences.append("Small: the 95 % interval of the share.")
    others = [one.results[protocol] for one in rows[1:]]
    if different := sorted({key for other in others for key in _differing(result, other)}):
        names = ", ".join(different)
        sentences.append(f"The rows were not measured alike: they differ in {names}.")
    if key := data_set(rows[0].classes):
        if published(protocol, key):
            sentences.append(
                f"In italics: published for {title(key)} under this protocol. Clips, crops, splits "
                "and training data are those of the authors and may differ from the rows above."
            )
        else:
            sentences.append(f"No published number of this protocol on {title(key)} is known here.")
    return escape(" ".join(sentences))


def _counts(result: Result) -> str:
    """Test and training videos; of each split where there are several."""
    sets = {part: _listed(result[part]) for part in ("test", "train")}
    test = " + ".join(f"{one['evaluated']:,} of {one['of']:,}" for one in sets["test"])
    train = " + ".join(f"{one['evaluated']:,}" for one in sets["train"])
    splits = f", mean of {len(sets['test'])} splits" if len(sets["test"]) > 1 else ""
    return f"{test} test videos, {train} training videos{splits}"


def _differing(one: Result, other: Result) -> list[str]:
    return list(differences(protocol_of(one), protocol_of(other)))


def _listed(one: Any) -> list:
    return one if isinstance(one, list) else [one]


def _named(one: Evaluation) -> str:
    """The row's name, and which checkpoint it is."""
    file = "" if one.is_baseline else f"<small>{escape(Path(one.checkpoint).name)}</small>"
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
    more = f"<small>{small}</small>" if small else ""
    return f'<td><span class="bar" style="width:{percent}%"></span>{percent} %{more}</td>'


def _published_row(row: Published, columns: Sequence[str]) -> str:
    """The source stands under the columns that the row has nothing for."""
    filled = [n for n, name in enumerate(columns) if name in row.values]
    known = columns[: filled[-1] + 1] if filled else []
    cells = "".join(
        _share(row.values[name] / 100 if name in row.values else None) for name in known
    )
    source = escape(f"Source: {row.source}")
    what = f"{escape(row.what)}. {source}" if len(known) == len(columns) else escape(row.what)
    if left := len(columns) - len(known):
        cells += f'<td class="source" colspan="{left}"><span>{source}</span></td>'
    named = f"{escape(row.method)}<small>{what}</small>"
    return f'<tr class="published"><th scope="row">{named}</th>{cells}</tr>'


def _scrolled(content: str) -> str:
    where = 'class="scroll" tabindex="0" role="region" aria-label="Results"'
    return f'<div {where}><table class="results">{content}</table></div>'
