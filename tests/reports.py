"""A finished run with its evaluations, and a reader of the pages made of them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import evaluate
from pipeline.manifest import Manifest, write_manifest
from tests import runs
from tests.conftest import damage, make_data_set
from tests.test_evaluate import arguments
from training.report import Evaluation, read_evaluation, write_report

EVIL = "<script>alert('x')</script> & \"y\""
VOID = {"meta", "source", "img", "link", "br", "input", "wbr"}
EVALUATIONS = ("random", "<b>trained")


class Page(HTMLParser):
    """Tags in order, text, and a check that every element is closed by its own tag."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict]:
        found = [attributes for name, attributes in self.tags if name == tag]
        return [one for one in found if kind in one.get("class", "").split() or not kind]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def measured(
    name: str, r1: float, *, checkpoint: str = "x.pt", names=("a", "b"), **more
) -> Evaluation:
    """A retrieval of 300 test videos with nothing beside it."""
    counts = {"evaluated": 300, "of": 300, "failed": [], "fingerprint": "f", "split": ""}
    content = {
        "protocol": "retrieval", "options": {}, "checkpoint": checkpoint, "classes": list(names),
        "result": {"R@1": r1, "R@5": 0.9}, "chance": {"R@1": 0.01, "R@5": 0.05},
        "intervals_95": {"R@1": [r1 - 0.05, r1 + 0.05], "R@5": [0.85, 0.95]},
        "views": {"frames": 32}, "train": counts, "test": counts, **more,
    }  # fmt: skip
    return Evaluation(name, Path(name), {"retrieval": content})


@cache
def finished() -> Path:
    """A folder with a run and its evaluations, of ten videos in two classes with odd names. One
    video is broken before the training, another after the evaluations.
    """
    folder = Path(tempfile.mkdtemp(prefix="kinema-test-"))
    atexit.register(shutil.rmtree, folder)
    manifest = folder / "odd.parquet"
    tiny = Manifest.read(make_data_set(folder))
    write_manifest(manifest, list(tiny), classes=[EVIL, "été"], options={})
    damage(manifest, 3)
    more = ["run.dir=" + str(folder / "run"), "data.max_bad_fraction=0.5"]
    online = [f"online.manifest={manifest}", "online.every_epochs=1"]
    runs.finished(*runs.smoke(manifest, folder / "run", *more, *online))
    checkpoint = max((folder / "run" / "checkpoints").glob("*.pt"))
    measured = [("random", "random", "retrieval")]
    measured += [("<b>trained", str(checkpoint), protocol) for protocol in ("retrieval", "linear")]
    for name, source, protocol in measured:
        output = folder / "eval" / name
        args = arguments(manifest, manifest, output, protocol=protocol, source=source)
        assert evaluate.main(args) == 3  # a video failed
    (folder / "v9.mp4").write_bytes(b"broken since")
    return folder


@cache
def page_of_all() -> Path:
    """The report of `finished` with both evaluations."""
    folder = finished()
    return write_report(
        folder / "report.html",
        run=folder / "run",
        evaluations=[read_evaluation(folder / "eval" / name) for name in EVALUATIONS],
        seconds={"index": 3.25, "pretraining": 200.0},
    )
