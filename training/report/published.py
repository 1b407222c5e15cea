"""Published numbers of the data set and protocol of a result: training/published.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.report.known import content_of_file, data_set, title
from training.report.setting import PAPERS_WIDTH, Setting

STREAMS = {"rgb": "RGB", "flow": "flow", "rgb + flow": "RGB + flow"}


@dataclass(frozen=True)
class Published:
    """values: in per cent, by measure. more: what else tells it from its neighbours. source: who
    says so.
    """

    method: str
    setting: Setting
    more: str
    values: dict[str, float]
    source: str

    @property
    def described(self) -> str:
        return ", ".join(part for part in (described(self.setting), self.more) if part)

    def is_alike(self, own: Setting) -> bool:
        """Whether its setting is known to be that of `own`."""
        return not self.setting.differing(own) and not self.setting.unknown(own)

    def beside(self, own: Setting) -> str:
        """In what its setting is not that of `own`, and what cannot be compared."""
        if self.is_alike(own):
            return "As here."
        kinds = {"Other than here": self.setting.differing(own),
                 "Not known": self.setting.unknown(own)}  # fmt: skip
        return " ".join(f"{kind}: {', '.join(names)}." for kind, names in kinds.items() if names)


def described(setting: Setting) -> str:
    """Network, stream, data and views in words, as far as they are known."""
    trained_on = setting.trained_on and f"pretrained on {setting.trained_on}"
    splits = f"mean of {setting.splits} splits" if setting.splits > 1 else ""
    parts = (network(setting), STREAMS.get(setting.stream, setting.stream), trained_on,
             _views(setting.views), splits)  # fmt: skip
    return ", ".join(part for part in parts if part)


def network(setting: Setting) -> str:
    """As papers call it; of another width than theirs with its factor, as R3D-50 (4x)."""
    name = content_of_file()["networks"].get(setting.network, setting.network)
    if not name or setting.width == PAPERS_WIDTH:
        return name
    factor = setting.width / PAPERS_WIDTH
    return f"{name} ({factor:g}x)"


def published(protocol: str, key: str) -> list[Published]:
    """What is known for a protocol on the data set `key`."""
    return [
        _row(row)
        for row in content_of_file()["results"]
        if (row["protocol"], row["data"]) == (protocol, key)
    ]


def by_nearness(rows: Sequence[Published], own: Setting) -> list[Published]:
    """Those first that differ in the least; what is not known counts as much."""
    return sorted(
        rows, key=lambda row: len(row.setting.differing(own)) + len(row.setting.unknown(own))
    )


def closest(protocol: str, classes: Sequence[str], measure: str, own: Setting) -> Published | None:
    """The published number of a measure that is nearest in its setting, if there is any."""
    rows = [row for row in published(protocol, data_set(classes)) if measure in row.values]
    return next(iter(by_nearness(rows, own)), None)


def _row(row: dict) -> Published:
    content = content_of_file()
    trained_on = row.get("trained_on", "")
    setting = Setting(
        network=row["network"],
        width=row.get("width", PAPERS_WIDTH),
        stream=row.get("stream", "rgb"),
        trained_on=title(trained_on) if trained_on in content["data_sets"] else trained_on,
        splits=row.get("splits", 0 if content["data_sets"][row["data"]]["splits"] > 1 else 1),
        views=content["views"].get(row.get("views", ""), {}),
        options=content["options"].get(row.get("options", ""), {}),
    )
    source = content["sources"][row["source"]]
    return Published(row["method"], setting, row.get("more", ""), row["values"], source)


def _views(views: dict[str, int | str]) -> str:
    """As 32 frames at 112 pixels, 10 uniform clips of 3 crops."""
    clip = {0: "", 1: "1 frame"}.get(frames := views.get("frames", 0), f"{frames} frames")
    if "size" in views:
        clip += f" at {views['size']} pixels"
    test = {"windows": "windows", "random": "a random clip"}.get(str(views.get("test", "")), "")
    if "clips" in views:
        test = f"{views['clips']} uniform clips"
    if test and views.get("crops", 1) != 1:
        test += f" of {views['crops']} crops"
    return ", ".join(part for part in (clip, test) if part)
