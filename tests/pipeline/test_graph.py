"""What the DALI graph does to pictures equals the same draw applied step by step in float64."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import kornia
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline import augment
from pipeline.augment import MAX_BLUR_WINDOW, AugmentConfig, Draw
from pipeline.decode import decode_frames, read_bytes
from pipeline.errors import DataError
from pipeline.graph import GraphSpec, Lane
from pipeline.host import HostLane, HostViews
from pipeline.manifest import Video
from pipeline.probe import probe
from pipeline.render import Picture
from pipeline.track import Track
from tests.videos import marked_corner, number_frame, read_number, write_video

WHOLE = (0.0, 0.0, 1.0, 1.0)
SIZE = 32
# The decoder in the CPU build of DALI knows VP9, the one on the GPU every codec: H.264 is typical.
DEVICES = [
    pytest.param(("cpu", "libvpx-vp9"), id="cpu"),
    pytest.param(("cuda:0", "libx264"), id="cuda", marks=pytest.mark.needs_cuda),
]
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=DEVICES)
def machine(request) -> tuple[str, str]:
    """(device, codec that DALI decodes there)."""
    return request.param


@pytest.fixture(params=["host", "cpu", pytest.param("cuda:0", marks=pytest.mark.needs_cuda)])
def device(request) -> str:
    """host: views that the host makes without the graph, by the same draws and to this truth."""
    return request.param


@functools.cache
def lane(
    device: str, *, size: int = SIZE, kind: str = "ffmpeg", views: int = 1, about: str = "grey",
    **options,
) -> Lane:  # fmt: skip
    """A graph that has every operator, shared by the tests: it keeps no state between runs."""
    config = AugmentConfig(
        size=size, solarize=0.5, contrast_about=about, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3]
    )
    if device == "host":
        return Host(config, views, **options)
    spec = {"training": True, "rotated": False, "batch": 4, "threads": 1, "depth": 1, **options}
    return Lane(GraphSpec(kind=kind, device=device, augments=(config,) * views, **spec))


class Host:
    """Worker and lane of the host in one, from pictures as the decoder gives them."""

    def __init__(self, config: AugmentConfig, views: int, **options):
        self.spec = SimpleNamespace(augments=(config,) * views)
        self._views = HostViews(config.size, whole=True, **options)
        self._lane = HostLane(self._views, mean=config.mean, std=config.std)

    def submit(self, tracks: list[Track]) -> None:
        self._lane.submit([self._views(self._decoded(track)) for track in tracks])

    def collect(self):
        return self._lane.collect()

    @staticmethod
    def _decoded(track: Track) -> Track:
        return replace(track, pictures=[Picture((p,), np.eye(3, 4)) for p in track.pictures])


def track(pictures: np.ndarray, *draws: Draw, rows=None, frames=None, rotation: int = 0) -> Track:
    rows = np.arange(len(pictures)) if rows is None else rows
    rows = np.broadcast_to(np.asarray(rows, np.int32), (len(draws), np.shape(rows)[-1]))
    return Track(
        np.ascontiguousarray(pictures), frames, np.ascontiguousarray(rows), draws, rotation
    )


def rendered(lane: Lane, *tracks: Track) -> list[list[np.ndarray]]:
    """Grey levels [T, H, W, C] float64 of every view of every track: normalisation undone."""
    lane.submit(list(tracks))
    config = lane.spec.augments[0]
    mean, std = (255 * torch.tensor(v, dtype=torch.float64) for v in (config.mean, config.std))
    views = []
    for view in lane.collect()[0]:
        assert view.dtype == torch.float32 and view.shape[1:2] == (3,)
        levels = view.permute(0, 2, 3, 4, 1).cpu().double() * std + mean
        views.append(list(levels.numpy()))
    return views


def one(device: str, pictures: np.ndarray, draw: Draw, **options) -> np.ndarray:
    """Grey levels [T, H, W, C] of one clip [T, H, W, C] under one draw."""
    return rendered(lane(device, **options), track(pictures, draw))[0][0]


def smooth(height: int, width: int, seed: int, frames: int = 1) -> np.ndarray:
    """[T, H, W, 3] uint8: sums of sinusoids of at most two periods across the picture."""
    rng = np.random.default_rng(seed)
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None] + 0.5) / width
    pictures = np.zeros((frames, height, width, 3))
    for t, c in np.ndindex(frames, 3):
        for _ in range(3):
            fy, fx, phase = rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(0, 2 * np.pi)
            pictures[t, :, :, c] += np.sin(2 * np.pi * (fy * y + fx * x) + phase)
    return np.round(127.5 + 40 * pictures).astype(np.uint8)


def noise(height: int, width: int, seed: int, frames: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def rounding(device: str) -> float:
    """Levels: half of one, and a bit more of OpenCV, whose maps of bytes have 10 bits."""
    return 0.78 if device == "host" else 0.501


def as_cut(device: str, roi, shape: tuple[int, int]):
    """The region as it is cut out: by the host in whole pixels."""
    if device != "host":
        return roi
    sides = np.array([*shape, *shape])
    first, last = np.split(np.rint(np.array(roi) * sides), 2)
    first = np.minimum(first, sides[:2] - 1)
    return tuple(np.concatenate([first, np.maximum(last, first + 1)]) / sides)


# The reference: every step by itself, in float64, rounded where the graph keeps bytes


def to_planes(pictures) -> torch.Tensor:
    return torch.as_tensor(np.asarray(pictures, dtype=np.float64)).permute(0, 3, 1, 2)


def to_pictures(planes: torch.Tensor) -> np.ndarray:
    return planes.permute(0, 2, 3, 1).numpy()


def as_bytes(levels: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(levels, 0, 255) + 0.5)


def cropped(pictures: np.ndarray, roi, size: int = SIZE) -> np.ndarray:
    """Bilinear samples at the centres of size x size equal cells of the region."""
    top, left, bottom, right = roi
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    y, x = top + centres * (bottom - top), left + centres * (right - left)
    # With align_corners=False, -1 and 1 are the outer edges of the border pixels.
    grid = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], dim=-1)
    grid = grid.expand(len(pictures), -1, -1, -1)
    planes = to_planes(pictures)
    return to_pictures(F.grid_sample(planes, grid, padding_mode="border", align_corners=False))


def region(device: str, pictures: np.ndarray, roi) -> np.ndarray:
    """`cropped`, of which the host sees nothing but the region, and its borders go on for ever."""
    if device != "host":
        return cropped(pictures, roi)
    shape = pictures.shape[1:3]
    top, left, bottom, right = np.rint(as_cut(device, roi, shape) * np.tile(shape, 2)).astype(int)
    return cropped(pictures[:, top:bottom, left:right], WHOLE)


def with_hue(levels: np.ndarray, turn: float) -> np.ndarray:
    """Turns the colour-difference plane (U, V) of analogue television; YIQ is U and V turned."""
    red, green, blue = np.moveaxis(levels, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # I and Q are U and V in another order, so that the sense of the turn is the other one.
    turned = (0.492111 * (blue - luma) + 0.877283j * (red - luma)) * np.exp(-2j * np.pi * turn)
    blue, red = luma + turned.real / 0.492111, luma + turned.imag / 0.877283
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.stack([red, green, blue], axis=-1)


def with_saturation(levels: np.ndarray, factor: float) -> np.ndarray:
    grey = to_pictures(kornia.color.rgb_to_grayscale(to_planes(levels)))
    return grey + factor * (levels - grey)


COLOURS = {
    "brightness": lambda levels, factor: levels * factor,
    "contrast": lambda levels, factor: (levels - 127.5) * factor + 127.5,
    "saturation": with_saturation,
    "hue": with_hue,
}


def color_draw(steps: list[tuple[str, float]]) -> np.ndarray:
    """[3, 4] map of the steps, the first of the list applied first."""
    maps = [getattr(augment, name)(amount) for name, amount in reversed(steps)]
    return functools.reduce(np.matmul, maps, np.eye(4))[:3]


def colored(levels: np.ndarray, steps: list[tuple[str, float]], colours=COLOURS) -> np.ndarray:
    for name, amount in steps:
        levels = colours[name](levels, amount)
    return levels


def with_contrast_about_the_clip(levels: np.ndarray, factor: float) -> np.ndarray:
    mean = levels.mean((0, 1, 2))  # of each channel, over all frames
    return (levels - mean) * factor + mean


ABOUT_CLIP = COLOURS | {"contrast": with_contrast_about_the_clip}


def about_clip_draw(steps: list[tuple[str, float]], **options) -> Draw:
    """A draw of the steps, in which contrast scales distances and leaves the mean alone."""
    of_pixel = color_draw([("brightness" if n == "contrast" else n, a) for n, a in steps])
    of_mean = color_draw([(n, a) for n, a in steps if n != "contrast"])
    return Draw(WHOLE, color=of_pixel, mean_matrix=(of_mean - of_pixel)[:, :3], **options)


def blurred(levels: np.ndarray, sigma: float) -> np.ndarray:
    if not sigma:
        return levels
    window = min(2 * math.ceil(3 * sigma) + 1, MAX_BLUR_WINDOW)
    blur = kornia.filters.gaussian_blur2d
    return to_pictures(blur(to_planes(levels), (window,) * 2, (sigma,) * 2, border_type="reflect"))


def solarized(levels: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(levels >= threshold, 255 - levels, levels)


factors = st.floats(0.4, 1.6)
color_steps = st.permutations(list(COLOURS)).flatmap(
    lambda names: st.tuples(*(st.floats(-0.5, 0.5) if n == "hue" else factors for n in names)).map(
        lambda amounts: list(zip(names, amounts, strict=True))
    )
)


@st.composite
def regions(draw, smallest: float = 0.2):
    height, width = draw(st.floats(smallest, 1)), draw(st.floats(smallest, 1))
    top, left = draw(st.floats(0, 1)) * (1 - height), draw(st.floats(0, 1)) * (1 - width)
    return top, left, top + height, left + width


# Geometry

SHAPES = [(96, 128), (128, 72), (64, 64), (32, 32), (31, 57), (16, 24)]


@quick
@given(roi=regions(), shape=st.sampled_from(SHAPES), seed=st.integers(0, 99))
def test_a_region_is_resized_about_pixel_centres(device, roi, shape, seed):
    pictures = smooth(*shape, seed, frames=2)
    difference = one(device, pictures, Draw(roi)) - region(device, pictures, roi)
    assert np.abs(difference).mean() <= 2
    # A shift by half a pixel of the view would show as a mean difference with a sign.
    assert np.abs(difference.mean()) <= 0.5


@pytest.mark.parametrize(
    ("shape", "roi"),
    [
        pytest.param((128, 128), WHOLE, id="down 4 x"),
        pytest.param((96, 160), (0.5, 0.6, 1.0, 1.0), id="off centre, not square"),
        pytest.param((24, 40), (0.1, 0.0, 0.4, 0.3), id="up 3 x"),
        pytest.param((32, 32), WHOLE, id="same size"),
    ],
)
def test_the_region_is_in_place(device, shape, roi):
    """A ramp tells where every pixel of the view was taken from: to a tenth of a pixel of it."""
    height, width = shape
    ramp = np.zeros((1, height, width, 3))
    ramp[..., 0] = (np.arange(height)[:, None] + 0.5) / height * 255
    ramp[..., 1] = (np.arange(width) + 0.5) / width * 255
    levels = one(device, np.round(ramp).astype(np.uint8), Draw(roi))[0, 4:-4, 4:-4]
    centres = (np.arange(SIZE)[4:-4] + 0.5) / SIZE
    top, left, bottom, right = as_cut(device, roi, shape)
    rows, columns = levels[..., 0].mean(1) / 255, levels[..., 1].mean(0) / 255
    assert np.allclose(rows, top + centres * (bottom - top), atol=1 / 255)
    assert np.allclose(columns, left + centres * (right - left), atol=1 / 255)
    assert np.mean(rows - top - centres * (bottom - top)) < 0.1 * (bottom - top) / SIZE + 2e-4


def test_shrinking_averages_and_does_not_alias(device):
    """Stripes of one pixel, shrunk 2.5 times: point samples would show a moire."""
    stripes = np.zeros((1, 80, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    levels = one(device, stripes, Draw(WHOLE))[0, 2:-2, 2:-2]
    aliased = cropped(stripes, WHOLE)[0, 2:-2, 2:-2]
    assert np.abs(levels - 127.5).max() < 26 < np.abs(aliased - 127.5).max()


def test_the_identity_draw_is_the_identity(device):
    pictures = noise(SIZE, SIZE, 0, frames=3)
    lane(device).submit([track(pictures, Draw(WHOLE))])
    view = lane(device).collect()[0][0].cpu()
    config = lane(device).spec.augments[0]
    mean, std = np.array(config.mean), np.array(config.std)
    expected = (np.moveaxis(pictures, -1, 0)[None] / 255.0 - mean[:, None, None, None]) / std[
        :, None, None, None
    ]
    assert view.shape == (1, 3, 3, SIZE, SIZE)
    assert np.allclose(view, expected, atol=1e-5)
    assert (as_bytes(one(device, pictures, Draw(WHOLE))) == pictures).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_recipe_without_an_operator_is_a_graph_without_it(training):
    """Evaluation draws nothing, and a plain recipe needs no parameter of colour, blur, solarise."""
    plain = AugmentConfig(size=SIZE, jitter=0, grayscale=0, blur=0, solarize=0)
    config = plain if training else AugmentConfig(size=SIZE, solarize=0.5)
    small = Lane(GraphSpec("ffmpeg", "cpu", (config,), training, False, 1, 1, 1))
    pictures = noise(SIZE, SIZE, 1, frames=2)
    color = color_draw([("brightness", 0.5)])
    draw = Draw(WHOLE, flip=True, color=color, blur_sigma=1.0, solarize_from=100)
    assert (as_bytes(rendered(small, track(pictures, draw))[0][0]) == pictures[:, :, ::-1]).all()


# Colour, blur, solarise, flip


@quick
@given(steps=color_steps, seed=st.integers(0, 99))
def test_colour_is_each_operation_in_turn_rounded_once(device, steps, seed):
    pictures = noise(SIZE, SIZE, seed)
    levels = one(device, pictures, Draw(WHOLE, color=color_draw(steps)))
    exact = np.clip(colored(pictures.astype(np.float64), steps), 0, 255)
    # Half a level is rounding; YIQ's published figures have four digits, the steps after amplify.
    assert np.abs(levels - exact).max() <= rounding(device) + 0.15
    assert (np.abs(levels - exact) <= 0.501).mean() > 0.8


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *[(name, amount) for name in ("brightness", "contrast") for amount in (0.0, 0.6, 1.4)],
        *[("saturation", amount) for amount in (0.0, 0.5, 1.5)],
        *[("hue", amount) for amount in (-0.1, 0.1, 0.5)],
    ],
)
def test_one_colour_operation_alone(device, name, amount):
    pictures = noise(SIZE, SIZE, 3)
    levels = one(device, pictures, Draw(WHOLE, color=color_draw([(name, amount)])))
    exact = np.clip(COLOURS[name](pictures.astype(np.float64), amount), 0, 255)
    slack = 0.1 if name == "hue" else 0.0
    assert np.abs(levels - exact).max() <= rounding(device) + slack


def shaded(seed: int, frames: int = 3) -> np.ndarray:
    """Noise that grows brighter from frame to frame: a clip's mean is none of its frames'."""
    levels = noise(SIZE, SIZE, seed, frames=frames) / frames
    return (levels * np.arange(1, frames + 1)[:, None, None, None]).astype(np.uint8)


@quick
@given(steps=color_steps, seed=st.integers(0, 99))
def test_contrast_about_the_clips_mean_is_each_operation_in_turn(device, steps, seed):
    pictures = shaded(seed)
    levels = rendered(lane(device, about="clip"), track(pictures, about_clip_draw(steps)))[0][0]
    exact = np.clip(colored(pictures.astype(np.float64), steps, ABOUT_CLIP), 0, 255)
    assert np.abs(levels - exact).max() <= rounding(device) + 0.15
    assert (np.abs(levels - exact) <= 0.501).mean() > 0.8


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.6])
def test_every_clip_of_a_run_has_its_own_mean(device, factor):
    """The last keeps its colours: its draw is that of a coin which fell on no jitter."""
    draw = about_clip_draw([("contrast", factor)])
    clips = [shaded(seed) // dim for seed, dim in enumerate((1, 2, 4))]
    tracks = [track(clip, draw) for clip in clips]
    found = rendered(lane(device, about="clip"), *tracks, track(clips[0], Draw(WHOLE)))[0]
    for clip, levels in zip(clips, found[:3], strict=True):
        exact = np.clip(with_contrast_about_the_clip(clip.astype(np.float64), factor), 0, 255)
        assert np.abs(levels - exact).max() <= rounding(device)
    assert (as_bytes(found[3]) == clips[0]).all()


def test_the_mean_is_that_of_what_is_cropped(device):
    """Left half black, right half white: no contrast at all is black in the left, grey in both."""
    pictures = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    pictures[:, :, SIZE // 2 :] = 255
    flat = about_clip_draw([("contrast", 0.0)])
    for roi, level in ((WHOLE, 127.5), ((0.0, 0.0, 1.0, 0.25), 0), ((0.0, 0.75, 1.0, 1.0), 255)):
        found = rendered(lane(device, about="clip"), track(pictures, replace(flat, roi=roi)))[0][0]
        assert np.abs(found - level).max() <= rounding(device)


@quick
@given(sigma=st.floats(0.1, 5), seed=st.integers(0, 99))
def test_blur_is_gaussian_with_mirrored_borders(device, sigma, seed):
    pictures = noise(SIZE, SIZE, seed)
    levels = one(device, pictures, Draw(WHOLE, blur_sigma=sigma))
    difference = np.abs(levels - blurred(pictures, sigma))
    if device == "host":  # OpenCV's weights of bytes are bytes
        assert difference.max() <= 3.5 and difference.mean() <= 0.7
    else:
        assert difference.max() <= 0.501


def test_a_blur_never_looks_into_another_frame(device):
    pictures = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    pictures[1] = 255
    levels = one(device, pictures, Draw(WHOLE, blur_sigma=2.0))
    assert [round(level.min()) for level in levels] == [0, 255, 0]
    assert [round(level.max()) for level in levels] == [0, 255, 0]


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarise_turns_the_bright_levels_over(device, threshold):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    pictures = np.repeat(levels, 3, axis=3)
    got = one(device, pictures, Draw(WHOLE, solarize_from=threshold), size=16)
    expected = [255 - v if v >= threshold else v for v in range(256)]
    assert as_bytes(got)[0, :, :, 1].reshape(-1).tolist() == expected


def test_flip_mirrors_left_and_right(device):
    pictures = noise(SIZE, SIZE, 4, frames=2)
    levels = one(device, pictures, Draw(WHOLE, flip=True))
    assert (as_bytes(levels) == pictures[:, :, ::-1]).all()


@quick
@given(
    steps=color_steps,
    sigma=st.just(0.0) | st.floats(0.1, 2),
    threshold=st.sampled_from([128, 256]),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_all_operations_in_order(device, steps, sigma, threshold, flip, seed):
    pictures = noise(SIZE, SIZE, seed, frames=2)
    draw = Draw(WHOLE, flip, color_draw(steps), sigma, threshold)
    levels = as_bytes(one(device, pictures, draw))
    expected = as_bytes(colored(pictures.astype(np.float64), steps))
    expected = solarized(as_bytes(blurred(expected, sigma)), threshold)
    expected = expected[:, :, ::-1] if flip else expected
    # An exact half may be rounded either way; what the blur of the host adds, see above.
    assert np.abs(levels - expected).max() <= (4 if device == "host" else 1)
    assert np.abs(levels - expected).mean() < (0.7 if device == "host" else 0.3)


@quick
@given(
    roi=regions(0.4), steps=color_steps, sigma=st.floats(0.1, 2), flip=st.booleans(),
    threshold=st.sampled_from([128, 256]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_whole_draw_on_a_smooth_clip(device, roi, steps, sigma, flip, threshold, seed):
    pictures = smooth(80, 112, seed, frames=2)
    draw = Draw(roi, flip, color_draw(steps), sigma, threshold)
    expected = as_bytes(colored(as_bytes(region(device, pictures, roi)), steps))
    expected = solarized(as_bytes(blurred(expected, sigma)), threshold)
    expected = expected[:, :, ::-1] if flip else expected
    # Colour maps stretch the resizing's difference at most as much as they stretch the picture.
    stretch = max(1.0, np.abs(color_draw(steps)[:, :3]).sum(1).max())
    assert np.abs(one(device, pictures, draw) - expected).mean() <= 2 * stretch


# Clips, views, batches


def random_draws(number: int, seed: int, size=(80, 60)) -> list[Draw]:
    config = AugmentConfig(solarize=0.5)
    rng = np.random.default_rng(seed)
    return [augment.training_draw(*size, config, rng) for _ in range(number)]


@quick
@given(seed=st.integers(0, 999))
def test_all_frames_of_a_clip_are_treated_alike(device, seed):
    pictures = np.repeat(smooth(60, 80, seed), 4, axis=0)
    levels = one(device, pictures, *random_draws(1, seed))
    assert (levels == levels[:1]).all()


def test_rows_choose_order_and_repeat_frames(device):
    pictures = np.stack([number_frame(n, 48, 48) for n in range(5)])
    first, second = [4, 0, 0, 2], [1, 1, 3, 4]
    two = lane(device, views=2)
    clip = track(pictures, Draw(WHOLE), Draw(WHOLE), rows=[first, second])
    views = rendered(two, clip)
    assert [[read_number(frame) for frame in view[0]] for view in views] == [first, second]


def test_views_of_a_track_have_their_own_draws(device):
    draws = random_draws(2, 5)
    pictures = smooth(60, 80, 5, frames=2)
    views = rendered(lane(device, views=2), track(pictures, *draws))
    for view, draw in zip(views, draws, strict=True):
        assert (view[0] == one(device, pictures, draw)).all()
    assert np.abs(views[0][0] - views[1][0]).mean() > 5


def test_a_view_has_its_own_operators(machine):
    """The first only blurs, the second only solarises, the third does neither: by their recipes."""
    device = machine[0]
    plain = AugmentConfig(size=SIZE, jitter=0, grayscale=0, blur=0)
    augments = (replace(plain, blur=1.0), replace(plain, solarize=0.2), plain)
    own = Lane(GraphSpec("ffmpeg", device, augments, True, False, 1, 1, 1))
    assert [own.spec.operators(view) for view in range(3)] == [{"blur"}, {"solarize"}, set()]
    pictures = noise(SIZE, SIZE, 6, frames=2)
    draw = Draw(WHOLE, color=color_draw([("brightness", 0.5)]), blur_sigma=1.0, solarize_from=128)
    views = [view[0] for view in rendered(own, track(pictures, *[draw] * 3))]
    assert np.abs(views[0] - blurred(pictures, 1.0)).max() <= 0.501
    assert (as_bytes(views[1]) == solarized(pictures, 128)).all()
    assert (as_bytes(views[2]) == pictures).all()


def test_only_jitter_about_the_clip_asks_for_its_mean():
    config = AugmentConfig(contrast_about="clip")

    def operators(**changed) -> set[str]:
        augments = (replace(config, **changed),)
        return GraphSpec("ffmpeg", "cpu", augments, True, False, 1, 1, 1).operators(0)

    assert operators() == {"color", "mean", "blur"}
    assert operators(contrast_about="grey") == {"color", "blur"}
    assert operators(contrast=0.0) == {"color", "blur"}
    assert operators(jitter=0.0) == {"color", "blur"}
    assert operators(jitter=0.0, grayscale=0.0, blur=0.0) == set()
    spec = GraphSpec("ffmpeg", "cpu", (config,), False, False, 1, 1, 1)
    assert spec.operators(0) == set()


def test_neighbours_in_a_run_do_not_matter(device):
    """Clips of four sizes in one run: each as if alone, whatever its place."""
    clips = [smooth(h, w, 9, frames=2) for h, w in SHAPES[:4]]
    tracks = [track(c, d) for c, d in zip(clips, random_draws(4, 9), strict=True)]
    together = rendered(lane(device), *tracks)[0]
    backwards = rendered(lane(device), *tracks[::-1])[0][::-1]
    alone = [rendered(lane(device), t)[0][0] for t in tracks]
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert (first == second).all() and (first == third).all()


def test_runs_come_out_in_the_order_they_went_in(machine):
    device = machine[0]
    deep = lane(device, depth=3)
    for n in range(3):
        deep.submit([track(number_frame(n, 48, 48)[None], Draw(WHOLE))] * (n + 1))
    found = [deep.collect()[0][0].cpu() for _ in range(3)]
    assert [len(view) for view in found] == [1, 2, 3]
    levels = [view[0].permute(1, 2, 3, 0)[0].numpy() * 60 + 127 for view in found]
    assert [read_number(picture) for picture in levels] == [0, 1, 2]


def test_a_view_stays_as_it_is_while_later_runs_go_on(device):
    graph = lane(device)
    pictures = [noise(SIZE, SIZE, n, frames=2) for n in range(4)]
    graph.submit([track(pictures[0], Draw(WHOLE))])
    kept = graph.collect()[0][0]
    before = kept.cpu().clone()
    for later in pictures[1:]:
        rendered(graph, *[track(later, Draw(WHOLE))] * 4)
    assert torch.equal(kept.cpu(), before)


# The decoder inside the graph


def described(path) -> Video:
    return Video.of(probe(path), key=path.stem, path=path)


def both_kinds(machine, video: Video, frames, draws, rows) -> list[list[np.ndarray]]:
    """Per decoder kind the views of one clip."""
    frames, device = np.array(frames), machine[0]
    decoded = decode_frames(video, frames, timeout_seconds=30)
    sources = {"ffmpeg": decoded, "nvdec": read_bytes(video)}
    results = []
    for kind, source in sources.items():
        graph = lane(device, kind=kind, views=len(draws), rotated=kind == "nvdec")
        clip = track(source, *draws, rows=rows, frames=frames, rotation=video.rotation)
        results.append([view[0] for view in rendered(graph, clip)])
    return results


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """By codec, a video of 30 numbered frames with key frames every 8."""
    folder = tmp_path_factory.mktemp("numbered")

    @functools.cache
    def of(codec: str) -> Video:
        path = folder / f"{codec}.mp4"
        return described(write_video(path, frames=30, size=(80, 64), codec=codec, gop=8))

    return of


def test_both_kinds_show_the_same_frames_of_two_views(machine, numbered):
    frames, rows = [1, 7, 8, 9, 29], [[0, 1, 2], [4, 4, 3]]
    draws = (Draw(WHOLE), Draw((0.0, 0.0, 1.0, 1.0), color=color_draw([("brightness", 0.9)])))
    by_kind = both_kinds(machine, numbered(machine[1]), frames, draws, rows)
    for views in by_kind:
        seen = [[read_number(picture) for picture in view] for view in views]
        assert seen == [[frames[row] for row in view] for view in rows]
    for ours, theirs in zip(*by_kind, strict=True):
        assert np.abs(ours - theirs).mean() < 4


def test_both_kinds_agree_on_colour(machine, tmp_path):
    video = described(
        write_video(
            tmp_path / "colour.mp4", frames=4, size=(64, 64), codec=machine[1],
            pixels=lambda n: smooth(64, 64, n)[0],
        )
    )  # fmt: skip
    ffmpeg, nvdec = both_kinds(machine, video, [0, 3], (Draw(WHOLE),), [0, 1])
    assert np.abs(ffmpeg[0] - nvdec[0]).mean() < 3
    assert np.abs((ffmpeg[0] - nvdec[0]).mean((0, 1, 2))).max() < 3


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_video_stands_upright(machine, tmp_path, rotation):
    """Stored turned counter-clockwise, displayed as the marked picture, 48 wide and 80 high."""
    upright = marked_corner(48, 80)
    stored = np.ascontiguousarray(np.rot90(upright, k=rotation // 90))
    height, width = stored.shape[:2]
    path = write_video(
        tmp_path / "turned.mp4", frames=3, size=(width, height), codec=machine[1],
        rotation=rotation, pixels=lambda n: stored,
    )  # fmt: skip
    video = described(path)
    assert (video.rotation, video.width, video.height) == (rotation, 48, 80)
    left_half = Draw((0.0, 0.0, 1.0, 0.5))
    by_kind = both_kinds(machine, video, [0, 2], (Draw(WHOLE), left_half), [0, 1])
    for whole, left in by_kind:
        half = SIZE // 2
        blocks = whole.reshape(2, 2, half, 2, half, 3).mean((0, 2, 4, 5))
        assert np.allclose(blocks, [[255, 0], [0, 0]], atol=12)
        assert np.allclose(left[:, : half - 1].mean(), 255, atol=8)
        assert np.allclose(left[:, half + 1 :].mean(), 0, atol=8)


def test_turned_and_upright_videos_share_a_run(machine, tmp_path):
    upright = marked_corner(64, 64)
    tracks = []
    for rotation in (0, 90, 180, 270):
        stored = np.ascontiguousarray(np.rot90(upright, k=rotation // 90))
        path = tmp_path / f"{rotation}.mp4"
        write_video(
            path, frames=2, codec=machine[1], rotation=rotation, pixels=lambda n, p=stored: p
        )
        tracks.append(
            track(read_bytes(described(path)), Draw(WHOLE), rows=[1],
                  frames=np.array([0, 1]), rotation=rotation)
        )  # fmt: skip
    for levels in rendered(lane(machine[0], kind="nvdec", rotated=True), *tracks)[0]:
        assert np.allclose(levels[0, 2:14, 2:14].mean(), 255, atol=8)
        assert np.allclose(levels[0, 18:].mean(), 0, atol=8)


def test_what_the_decoder_of_the_graph_refuses_is_one_line(machine):
    device = machine[0]
    broken = Lane(GraphSpec("nvdec", device, (AugmentConfig(size=8),), False, False, 1, 1, 1))
    nonsense = np.zeros(500, np.uint8)
    with pytest.raises(DataError, match="error: the decoder of the graph failed · ") as caught:
        broken.submit([track(nonsense, Draw(WHOLE), rows=[0], frames=np.array([0]))])
        broken.collect()
    assert "\n" not in str(caught.value)
    assert "data.decoder=ffmpeg" in str(caught.value)
