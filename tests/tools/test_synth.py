"""Synthetic videos: real files, reproducible bytes, and classes that differ in what they should."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.synth.__main__ import main
from tools.synth.classes import CLASSES
from tools.synth.encode import draw_x264_options, write_video
from tools.synth.options import Options
from tools.synth.produce import make_video
from tools.synth.render import WORLD, render_video
from tools.synth.shot import draw_shot

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tools.synth"]
SMALL = ["--classes", "3", "--videos-per-class", "2", "--size", "32", "--frames", "10"]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    assert main([str(out), *SMALL, "--jobs", "1"]) == 0
    return out


def test_files_lie_in_one_folder_per_class(written):
    assert sorted(digests(written)) == sorted(
        f"{action.name}/{action.name}_train_s0_0000{number}.mp4"
        for action in CLASSES[:3]
        for number in range(2)
    )


def test_files_are_h264_and_decode_to_every_frame(written):
    for path in written.rglob("*.mp4"):
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            assert video.codec_context.name == "h264"
            assert video.codec_context.pix_fmt == "yuv420p"
            assert video.average_rate == 24
            frames = list(container.decode(video))
        assert len(frames) == 10
        assert {(frame.width, frame.height) for frame in frames} == {(32, 32)}


def test_a_decoded_file_shows_what_was_rendered(tmp_path):
    (tmp_path / CLASSES[0].name).mkdir()
    with av.open(str(make_video(tmp_path, Options(), (0, 0)))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    error = np.abs(np.stack(decoded).astype(float) - render_video(0, 0, Options()))
    # a coarse quantiser and chroma at half the resolution; a neighbouring frame is at 20 or more
    assert error.mean() < 10


def test_same_arguments_give_the_same_bytes_in_one_process_and_in_two(written, tmp_path):
    subprocess.run(
        [*COMMAND, str(tmp_path), *SMALL, "--jobs", "2"], cwd=ROOT, check=True, capture_output=True
    )
    assert digests(tmp_path) == digests(written)


@pytest.mark.parametrize(
    "other", [["--split", "test"], ["--seed", "1"], ["--motion-only"], ["--progress"], ["--calm"]]
)
def test_another_split_seed_or_kind_gives_other_videos(written, tmp_path, other):
    assert main([str(tmp_path), *SMALL, "--jobs", "1", *other]) == 0
    assert not set(digests(tmp_path).values()) & set(digests(written).values())


def test_more_classes_or_videos_leave_the_others_unchanged(written, tmp_path):
    more = ["--classes", "4", "--videos-per-class", "3"]
    assert main([str(tmp_path), *SMALL, *more, "--jobs", "1"]) == 0
    assert digests(written).items() <= digests(tmp_path).items()


def test_a_stopped_run_is_completed_by_the_same_command(written, tmp_path):
    assert main([str(tmp_path), *SMALL, "--jobs", "1"]) == 0
    finished, *_ = tmp_path.rglob("*00001.mp4")
    finished.rename(finished.with_name(finished.name + ".partial"))
    assert main([str(tmp_path), *SMALL, "--jobs", "1"]) == 0
    assert digests(tmp_path) == digests(written)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(av.error.FFmpegError):
        write_video(path, np.zeros((2, 32, 32, 3), np.uint8), fps=24, x264={"preset": "none such"})
    assert path.read_bytes() == b"old"


def test_every_class_has_a_motion_a_scene_and_a_shape_of_its_own():
    assert len(CLASSES) >= 12
    for column in ("name", "motion", "scene", "shape"):
        assert len({getattr(action, column) for action in CLASSES}) == len(CLASSES)


def test_by_default_scene_and_shape_tell_the_class():
    for index, action in enumerate(CLASSES):
        shot = draw_shot(index, 7, Options(frames=2))
        assert shot.backdrop.scene is action.scene
        assert shot.sprites[-1].shape is action.shape


def test_motion_only_draws_scene_and_shape_without_regard_to_the_class():
    options, videos = Options(frames=2, motion_only=True), 60
    scenes, shapes = [action.scene for action in CLASSES], [action.shape for action in CLASSES]
    n = len(CLASSES)
    counts = np.zeros((2, n, n))
    for index in range(n):
        for number in range(videos):
            shot = draw_shot(index, number, options)
            counts[0, index, scenes.index(shot.backdrop.scene)] += 1
            counts[1, index, shapes.index(shot.sprites[-1].shape)] += 1
    expected = videos / n
    chi_square = ((counts - expected) ** 2 / expected).sum((1, 2))
    # of n (n - 1) = 132 degrees of freedom: mean 132, standard deviation sqrt(2 * 132) = 16.2
    freedom = n * (n - 1)
    assert (np.abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)).all()


def test_motion_only_keeps_the_motion():
    usual = draw_shot(4, 3, Options()).sprites[-1].tracks
    undressed = draw_shot(4, 3, Options(motion_only=True)).sprites[-1].tracks
    np.testing.assert_array_equal(undressed.x, usual.x)
    np.testing.assert_array_equal(undressed.angle, usual.angle)


def test_calm_moves_the_object_alone():
    options = Options(frames=5, motion_only=True)
    for number in range(8):
        moving, calm = (draw_shot(4, number, replace(options, calm=on)) for on in (False, True))
        (actor,), same = calm.sprites, moving.sprites[-1]
        assert np.array_equal(actor.tracks.x, same.tracks.x)
        assert np.array_equal(actor.paint, same.paint)
        assert np.array_equal(calm.light, moving.light)
        for name in ("x", "y", "zoom", "roll"):
            way = getattr(calm.camera, name)
            assert (way == getattr(moving.camera, name)[0]).all() and len(way) == 5


def progress_of(index: int, number: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """How large the object is and how bright the light, [T] each, beside the same shot at rest."""
    still = draw_shot(index, number, Options(**options))
    moving = draw_shot(index, number, Options(progress=True, **options))
    growth = moving.sprites[-1].tracks.stretch_x / still.sprites[-1].tracks.stretch_x
    return growth[0], moving.light[:, 0] / still.light[:, 0]


def test_progress_goes_one_way_and_alike_in_all_classes():
    ends = np.zeros((len(CLASSES), 40, 2))
    for index in range(len(CLASSES)):
        for number in range(40):
            growth, light = progress_of(index, number, frames=5)
            assert (np.diff(growth) > 0).all() and (np.diff(light) < 0).all()
            ends[index, number] = growth[-1] / growth[0], light[-1] / light[0]
    # (0.55 + 0.8) / 0.55 = 2.45 to 3; (1.1 - 0.6) / 1.1 = 0.45 to 0.59
    assert ends[..., 0].min() >= 2.45 and ends[..., 0].max() <= 3.01
    assert ends[..., 1].min() >= 0.45 and ends[..., 1].max() <= 0.6
    # a class's mean of 40 uniform draws has a standard error of width / sqrt(12 * 40)
    apart = np.ptp(ends.mean(axis=1), axis=0) / np.array([0.55, 0.15])
    assert (apart < 8 / np.sqrt(12 * 40)).all()


@pytest.mark.parametrize("motion_only", [False, True])
def test_progress_leaves_all_else_as_it_is(motion_only):
    options = Options(frames=5, motion_only=motion_only)
    still, moving = (draw_shot(4, 3, replace(options, progress=value)) for value in (False, True))
    for name in ("x", "y", "angle"):
        tracks = [getattr(shot.sprites[-1].tracks, name) for shot in (still, moving)]
        np.testing.assert_array_equal(*tracks)
    np.testing.assert_array_equal(still.camera.zoom, moving.camera.zoom)
    assert still.backdrop.scene is moving.backdrop.scene
    assert (still.backdrop.period, still.noise) == (moving.backdrop.period, moving.noise)
    assert len(still.sprites) == len(moving.sprites)


def test_progress_is_seen():
    options = Options(size=32, frames=6, progress=True)
    videos = [render_video(index, 0, options) for index in range(len(CLASSES))]
    darker = np.array([video[-1].mean() / video[0].mean() for video in videos])
    # levels are the square root of the light: 0.45 to 0.59 of it; a large bright object adds some
    assert darker.max() < 0.95
    assert darker.mean() < 0.8


@pytest.mark.parametrize("index", range(len(CLASSES)), ids=[action.name for action in CLASSES])
def test_videos_of_one_class_differ_strongly_in_colour(index):
    videos = [render_video(index, number, Options(size=32, frames=2)) for number in range(12)]
    means = np.stack([video.mean((0, 1, 2)) for video in videos])
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)[np.triu_indices(12, 1)]
    assert np.median(apart) > 50  # of 255: teal to olive
    chroma = means - means.mean(1, keepdims=True)
    angles = np.arctan2(np.sqrt(3) * (chroma[:, 1] - chroma[:, 2]), 3 * chroma[:, 0])
    # hues all around: the mean direction of 12 random ones is at 1 / sqrt(12) = 0.29
    assert np.abs(np.exp(1j * angles).mean()) < 0.75


@pytest.mark.parametrize("index", range(len(CLASSES)), ids=[action.name for action in CLASSES])
def test_the_object_moves_and_is_seen(index):
    for number in range(20):
        shot = draw_shot(index, number, Options())
        actor, camera = shot.sprites[-1], shot.camera
        x, y = actor.tracks.x - camera.x, actor.tracks.y - camera.y
        inside = (np.maximum(np.abs(x), np.abs(y)) < camera.zoom).any(0)
        assert inside.mean() > 0.4
        look = [*x, *y, *actor.tracks.angle, *actor.tracks.stretch_x]
        assert max(np.ptp(values) for values in look) > 0.3


@given(st.integers(0, len(CLASSES) - 1), st.integers(0, 10**6), st.integers(0, 2**64 - 1))
@settings(max_examples=100, deadline=None)
def test_the_camera_never_leaves_the_painted_world(index, number, seed):
    camera = draw_shot(index, number, Options(seed=seed)).camera
    corner = np.abs(np.cos(camera.roll)) + np.abs(np.sin(camera.roll))
    reach = np.maximum(np.abs(camera.x), np.abs(camera.y)) + camera.zoom * corner
    assert reach.max() <= WORLD


@pytest.mark.parametrize("shape", [action.shape for action in CLASSES], ids=lambda f: f.__name__)
def test_a_shape_lies_in_the_unit_circle_and_its_distance_has_slope_one(shape):
    points = np.linspace(-1.3, 1.3, 521)
    x, y = np.meshgrid(points, points)
    distance = shape(x, y)
    assert distance[np.hypot(x, y) > 1].min() > 0
    assert distance.min() < -0.1
    slope = np.hypot(*np.gradient(distance, points[1] - points[0]))
    # the outline is one pixel soft if the slope is one; corners and gear teeth may be off
    assert np.median(slope[np.abs(distance) < 0.03]) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("scene", [action.scene for action in CLASSES], ids=lambda f: f.__name__)
def test_a_scene_is_a_field_from_zero_to_one_with_contrast(scene):
    points = np.linspace(-2.5, 2.5, 200, dtype=np.float32)
    for seed in range(5):
        field = scene(np.random.default_rng(seed), points[None, :], points[:, None], 1.3)
        field = np.broadcast_to(field, (200, 200))
        assert field.dtype == np.float32
        assert field.min() >= -1e-6
        assert field.max() <= 1 + 1e-6
        assert field.std() > 0.15


def test_frames_hold_for_any_size_and_length():
    for size, frames in ((16, 1), (50, 3), (112, 2)):
        video = render_video(7, 0, Options(size=size, frames=frames))
        assert video.shape == (frames, size, size, 3)
        assert video.dtype == np.uint8
        assert video.std() > 10


def test_encoders_vary_and_some_files_have_b_frames(tmp_path):
    drawn = [draw_x264_options(0, number, Options()) for number in range(40)]
    assert {options["bf"] for options in drawn} == {"0", "2", "3"}
    assert {options["g"] for options in drawn} == {"12", "48", "250"}
    (tmp_path / CLASSES[0].name).mkdir()
    kinds = set()
    for number in range(4):
        with av.open(str(make_video(tmp_path, Options(size=32), (0, number)))) as container:
            kinds |= {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    assert kinds == {"I", "P", "B"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "99"], "--classes 99 must be 1 to 12"),
        (["--classes", "0"], "--classes 0 must be 1 to 12"),
        (["--videos-per-class", "0"], "--videos-per-class 0 must be at least 1"),
        (["--split", "a/b"], "--split a/b must be letters, digits and - only"),
        (["--seed", "-1"], "--seed -1 must be 0 to 2^64 - 1"),
        (["--size", "63"], "--size 63 must be an even 16 to 4096 pixels"),
        (["--frames", "0"], "--frames 0 must be at least 1"),
        (["--fps", "0"], "--fps 0 must be 1 to 240 frames per second"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--classes", "many"], "argument --classes: invalid int value: 'many'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {message} · python -m tools.synth --help\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_3(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file"), *SMALL]) == 3
    where = tmp_path / "file" / CLASSES[0].name
    assert capsys.readouterr().err == f"error: cannot write videos: Not a directory · {where}\n"


def test_progress_is_plain_lines_when_not_on_a_terminal(tmp_path, capsys):
    assert main([str(tmp_path), *SMALL, "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [f"{number}/6 videos" for number in range(1, 7)]
    assert lines[6].startswith(f"6 videos of 3 classes · {tmp_path} · ")
    assert len(lines) == 7


def test_progress_is_a_bar_on_a_terminal(tmp_path):
    reader, writer = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, str(tmp_path), *SMALL, "--jobs", "1"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=writer, env=environment)
    os.close(writer)
    shown = os.read(reader, 100_000).decode()
    assert "100%" in shown
    assert "1/6 videos" not in shown
