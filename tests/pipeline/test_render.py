"""Views made on the CPU equal the draw applied step by step in float64."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from pipeline.augment import Draw
from pipeline.render import Picture, luma, mirrored, painted, picture, placed

WHOLE = (0.0, 0.0, 1.0, 1.0)
RGB = np.eye(3, 4)
# Y, Cb, Cr of full red and blue, by the 8-bit formulas of ITU-R BT.601, BT.709 and BT.2020.
BT601_RED, BT601_BLUE = (81, 90, 240), (41, 240, 110)
BT709_RED, BT2020_RED = (63, 102, 240), (74, 97, 240)


def frame_of(planes: tuple[np.ndarray, ...], *, form: str = "yuv420p") -> av.VideoFrame:
    """A frame whose planes hold these levels [H, W]."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, form)
    for plane, levels in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[: levels.shape[0], : levels.shape[1]] = levels
        plane.update(rows.tobytes()[: plane.buffer_size])
    return frame


def flat(levels: tuple[int, int, int], **options) -> av.VideoFrame:
    y, u, v = levels
    whole, half = np.full((8, 10), y, np.uint8), np.full((4, 5), u, np.uint8)
    return frame_of((whole, half, np.full((4, 5), v, np.uint8)), **options)


def shown(frame: av.VideoFrame, *, width: int = 10, height: int = 8, rotation: int = 0) -> Picture:
    return picture(frame, width=width, height=height, rotation=rotation)


def noise(height: int, width: int, seed: int = 0, channels: tuple[int, ...] = (3,)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def stored(pixels: np.ndarray) -> Picture:
    """A picture [H, W, 3] that is RGB already."""
    return Picture((pixels,), RGB)


@pytest.mark.parametrize(
    ("levels", "space", "rgb"),
    [
        (BT601_RED, Colorspace.ITU601, (255, 0, 0)),
        (BT601_RED, 2, (255, 0, 0)),
        (BT601_BLUE, 6, (0, 0, 255)),
        (BT709_RED, Colorspace.ITU709, (255, 0, 0)),
        (BT2020_RED, Colorspace.BT2020, (255, 0, 0)),
        ((16, 128, 128), Colorspace.ITU709, (0, 0, 0)),
        ((235, 128, 128), 2, (255, 255, 255)),
    ],
)
def test_levels_become_the_colours_of_the_standard(levels, space, rgb):
    frame = flat(levels)
    frame.colorspace = int(space)
    clip = placed([shown(frame)], Draw(WHOLE), 6)
    assert clip.shape == (1, 6, 6, 3)
    assert np.abs(clip.astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("how", ["marked", "by format"])
def test_full_range_has_no_foot(how):
    frame = flat((7, 128, 128), form="yuvj420p" if how == "by format" else "yuv420p")
    if how == "marked":
        frame.color_range = ColorRange.JPEG
    assert np.array_equal(np.unique(placed([shown(frame)], Draw(WHOLE), 4)), [7])


def test_planes_are_the_decoders_own_memory():
    one = shown(flat(BT601_RED))
    assert [plane.shape for plane in one.planes] == [(8, 10), (4, 5), (4, 5)]
    assert not any(plane.flags.owndata for plane in one.planes)


@pytest.mark.parametrize("form", ["yuv444p", "yuv422p", "gray", "rgb24", "yuv420p10le"])
def test_other_formats_come_as_rgb(form):
    frame = flat((126, 128, 128)).reformat(format=form)
    (pixels,) = shown(frame).planes
    assert pixels.shape == (8, 10, 3)
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_a_stream_that_changes_its_size_is_scaled_to_the_videos():
    (pixels,) = shown(flat((126, 128, 128)), width=20, height=12).planes
    assert pixels.shape == (12, 20, 3)


@pytest.mark.parametrize(("width", "height"), [(9, 7), (1, 1), (2, 3)])
def test_odd_sides_have_chroma_for_their_last_pixel(width, height):
    half = (height + 1) // 2, (width + 1) // 2
    frame = frame_of(
        (np.full((height, width), 81, np.uint8), np.full(half, 90, np.uint8),
         np.full(half, 240, np.uint8))
    )  # fmt: skip
    clip = placed([shown(frame, width=width, height=height)], Draw(WHOLE), 5)
    assert np.abs(clip.astype(int) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_picture_stands_upright(rotation):
    y, u, v = noise(8, 12, 1, ()), noise(4, 6, 2, ()), noise(4, 6, 3, ())
    turned = rotation in (90, 270)
    upright = shown(
        frame_of((y, u, v)), width=8 if turned else 12, height=12 if turned else 8,
        rotation=rotation,
    )  # fmt: skip
    for plane, source in zip(upright.planes, (y, u, v), strict=True):
        assert np.array_equal(plane, np.rot90(source, k=-rotation // 90))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_shrinking_takes_the_mean_of_each_area(times):
    pixels = noise(12 * times, 12 * times, times)
    cells = pixels.reshape(12, times, 12, times, 3).astype(float).mean((1, 3))
    assert np.abs(placed([stored(pixels)], Draw(WHOLE), 12)[0] - cells).max() <= 0.5 + 1e-6


def test_growing_is_linear_between_pixel_centres():
    pixels = noise(6, 6)
    at = np.clip((np.arange(24) + 0.5) / 4 - 0.5, 0, 5)
    low, share = np.minimum(np.floor(at).astype(int), 4), at - np.minimum(np.floor(at), 4)
    rows = pixels[low] * (1 - share)[:, None, None] + pixels[low + 1] * share[:, None, None]
    exact = rows[:, low] * (1 - share)[:, None] + rows[:, low + 1] * share[:, None]
    assert np.abs(placed([stored(pixels)], Draw(WHOLE), 24)[0] - exact).max() <= 1


def test_the_region_is_that_of_the_draw_in_whole_pixels():
    pixels = noise(40, 60)
    region = placed([stored(pixels)], Draw((0.25, 0.1, 0.75, 0.4)), 20)[0]
    alone = placed([stored(pixels[10:30, 6:24])], Draw(WHOLE), 20)[0]
    assert np.array_equal(region, alone)


@pytest.mark.parametrize("roi", [(0.999, 0.999, 1.0, 1.0), (0.0, 0.0, 0.001, 0.001)])
def test_a_region_has_a_pixel_at_least(roi):
    pixels = noise(20, 30)
    corner = pixels[-1, -1] if roi[0] else pixels[0, 0]
    assert (placed([stored(pixels)], Draw(roi), 4) == corner).all()


def test_luma_is_that_of_bt601():
    clip = noise(5, 5)[None]
    exact = clip @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(clip) - exact).max() <= 0.5 + 1e-6


def test_only_a_flip_mirrors():
    clip = noise(4, 4)[None]
    assert np.array_equal(mirrored(clip, Draw(WHOLE, flip=True)), clip[:, :, ::-1])
    assert mirrored(clip, Draw(WHOLE)) is clip


def test_a_draw_that_changes_nothing_copies_nothing():
    clip = noise(4, 4)[None]
    assert painted(clip, Draw(WHOLE)) is clip
