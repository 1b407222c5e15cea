"""The preview's sheet and page: every pixel and frame on them, the same bytes each time."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import Manifest
from pipeline.manifest import Video, write_manifest
from tests.previews import SMOKE, data_set, ramps, shown, views
from tools.preview.__main__ import main
from tools.preview.page import page
from tools.preview.pictures import fitted, pictures
from tools.preview.samples import Shown, Strip
from tools.preview.sheet import readable, sheet, thinned

EVIL = "<script>alert('x')</script> & \"y\""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    return data_set(tmp_path_factory.mktemp("numbered"))


@pytest.fixture(scope="module")
def ramped(tmp_path_factory) -> Path:
    return data_set(tmp_path_factory.mktemp("ramped"), pixels=ramps)


# The sheet


def made(data: Path, folder: Path, *more: str) -> tuple[bytes, str]:
    arguments = [str(SMOKE), f"data.train={data}", "-o", str(folder / "s.png")]
    assert main([*arguments, "--html", str(folder / "p.html"), *more]) == 0
    return (folder / "s.png").read_bytes(), (folder / "p.html").read_text()


def cards(image: Image.Image) -> int:
    """Cards are told by their upper and lower edges, lines of one colour across the page."""
    pixels = np.asarray(image)
    edges = (pixels[:, 60:-60] == (0xE4, 0xE1, 0xDB)).all(axis=(1, 2)).sum()
    assert edges % 2 == 0
    return edges // 2


def contains(image: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` [h, w, 3] lies anywhere in `image`, pixel for pixel."""
    height, width = part.shape[:2]
    needle = np.ascontiguousarray(part[0]).tobytes()
    for top, line in enumerate(image[: len(image) - height + 1]):
        for found in re.finditer(b"(?=" + re.escape(needle) + b")", line.tobytes()):
            left, rest = divmod(found.start(), 3)
            if not rest and np.array_equal(image[top : top + height, left : left + width], part):
                return True
    return False


def test_same_bytes_each_time(numbered, tmp_path):
    (tmp_path / "b").mkdir()
    assert made(numbered, tmp_path) == made(numbered, tmp_path / "b")
    assert {p.name for p in tmp_path.iterdir()} == {"b", "s.png", "p.html"}


@pytest.mark.parametrize("count", [1, 3])
def test_one_row_for_each_sample(numbered, tmp_path, capsys, count):
    png, html = made(numbered, tmp_path, "--samples", str(count))
    assert cards(Image.open(io.BytesIO(png))) == html.count("<article") == count
    words = "1 sample" if count == 1 else "3 samples"
    assert capsys.readouterr().out == f"{words} · {tmp_path / 's.png'} · {tmp_path / 'p.html'}\n"


def test_every_pixel_of_the_views_is_on_the_sheet(ramped):
    samples = shown(ramped, count=2)
    image = np.asarray(sheet(samples, title="t", lead="l"))
    for view in (v for sample in samples for v in views(sample)):
        for frame in view.frames:
            assert contains(image, frame.repeat(8, axis=0).repeat(8, axis=1))  # 16 x 8 = 128
        assert not contains(image, 255 - view.frames[0].repeat(8, axis=0).repeat(8, axis=1))


def test_a_long_clip_is_cut_into_lines_and_its_source_thinned(ramped):
    (sample,) = shown(ramped, "clip.frames=20", "clip.stride=1", count=1)
    image = sheet([sample], title="t", lead="l")
    whole = np.asarray(image)
    for view in views(sample):
        for frame in view.frames:
            assert contains(whole, frame.repeat(8, axis=0).repeat(8, axis=1))
    assert image.width < 2000


def test_thinned_keeps_the_ends():
    assert thinned(5, 8) == [0, 1, 2, 3, 4]
    assert thinned(32, 4) == [0, 10, 21, 31]
    assert thinned(1, 3) == [0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((24, 24), (120, 120)), ((112, 112), (112, 112)), ((320, 240), (128, 96)),
     ((9, 1000), (1, 128)), ((60, 128), (60, 128))],
)  # fmt: skip
def test_small_pictures_grow_by_whole_factors(size, expected):
    assert fitted(*size, 128) == expected


def test_signs_that_the_font_lacks_are_escaped():
    assert readable("a × b − c") == "a x b - c"
    assert readable("日é\x1b\n") == "\\u65e5\\xe9\\x1b\\n"
    assert readable("run #1 (final)_[x].mp4 · 30 %") == "run #1 (final)_[x].mp4 · 30 %"


def test_odd_names_fit_the_sheet(numbered):
    (sample,) = shown(numbered, count=1)
    for name in ("x" * 4000, "日本 " * 500, "", "\udcff.mp4"):
        odd = replace(sample, video=replace(sample.video, key=name), label=name)
        assert sheet([odd], title="t", lead="l").width == sheet([sample], title="t", lead="l").width
        assert "<article" in page([odd], title="t", lead="l", stride=1).encode().decode()


# The page


def films(html: str) -> list[Image.Image]:
    found = re.findall(r"--film-\d+:url\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def test_the_page_needs_nothing_else(numbered, tmp_path):
    _, html = made(numbered, tmp_path)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert not re.search(r"<script|<link|<iframe|@import|\bsrc=|\bhref=|https?:|\bon\w+=", html)
    assert set(re.findall(r"url\((.{5})", html)) == {"data:"}
    assert "prefers-color-scheme: dark" in html and "prefers-reduced-motion" in html
    assert 'name="viewport" content="width=device-width' in html


def test_the_films_hold_every_frame(numbered):
    samples = shown(numbered, count=2)
    html = page(samples, title="t", lead="l", stride=2)
    strips = [strip for sample in samples for strip in sample.strips]
    for strip, film in zip(strips, films(html), strict=True):
        n = len(strip.frames)
        assert film.width % n == 0
        if strip.view is not None:
            assert np.array_equal(np.asarray(film), np.concatenate(list(strip.frames), axis=1))
    # Two frames of 25 a second from picture to picture, 4 pictures.
    assert html.count("--frames:4;") == 12 and html.count("--seconds:0.320s") == 12


def test_very_long_clips_stay_within_webp():
    frames = np.zeros((400, 60, 80, 3), np.uint8)
    video = Video(
        key="v", path=Path("v.mp4"), offset=0, size=1, crc32=0, frames=400, fps=0, width=80,
        height=60, rotation=0, codec="h264", keyframe_distance_frames=1, vfr=False, start_pts=0,
        time_base=1, label=-1, split="",
    )  # fmt: skip
    strip = Strip("source", frames, list(range(400)), {}, boxes=[[] for _ in range(400)])
    sample = Shown(0, 0, 0, 0, 0, video, "no label", [strip], [])
    (film,) = films(page([sample], title="t", lead="l", stride=1))
    assert film.size == (400 * 40, 30)
    assert len(pictures(strip, 40)) == 400


def test_names_are_text_and_never_markup(tmp_path):
    data = data_set(tmp_path / "data", videos=4)
    rows = [replace(row, key=f"{EVIL}{n}") for n, row in enumerate(Manifest.read(data))]
    write_manifest(data, rows, classes=[EVIL, "</style>"], options={})
    _, html = made(data, tmp_path)
    assert "<script" not in html and html.count("</style>") == 1
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;y&quot;" in html


def test_the_source_is_as_wide_as_the_views(numbered):
    (sample,) = shown(numbered, "augment.size=48", count=1)
    source, view, _ = sample.strips
    assert pictures(view, 100)[0].size == (96, 96)
    assert pictures(source, 96)[0].size == (96, 96)
