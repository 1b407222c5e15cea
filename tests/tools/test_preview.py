"""The preview: its pictures are those of training, and its words say what was done to them."""

from __future__ import annotations

import re
import resource
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.augment import Draw, brightness, contrast, hue, saturation
from tests.conftest import damage
from tests.previews import PLAIN, SIDE, SMOKE, data_set, grey_ramp, planned, ramps, shown, views
from tests.videos import read_number
from tools.preview.__main__ import main
from tools.preview.draws import color_words, describe
from tools.preview.page import page
from tools.preview.pictures import outlined, view_color
from tools.preview.samples import denormalised, read_samples
from training import stages
from training.distributed import Process

CPU = Process(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    return data_set(tmp_path_factory.mktemp("numbered"))


@pytest.fixture(scope="module")
def ramped(tmp_path_factory) -> Path:
    return data_set(tmp_path_factory.mktemp("ramped"), pixels=ramps)


# What is shown is what is trained on


@pytest.mark.parametrize("more", [(), ("augment.consistent=false",), ("clip.sampling=random",)])
@pytest.mark.parametrize(("stage", "step"), [(0, 0), (0, 3), (1, 7)])
def test_views_are_those_of_the_training_batches(numbered, stage, step, more):
    schedule, manifest = planned(numbered, *more)
    found = list(read_samples(schedule[stage], manifest, step=step, count=6))
    method, _ = stages.build(schedule[stage], CPU)
    loader = stages.training_loader(schedule[stage], manifest, method, CPU)
    first = step - schedule[stage].first_step
    augment = schedule[stage].recipe.augment
    batches = list(loader.batches(first, first + 2))
    for n, sample in enumerate(found):
        batch, place = batches[n // 4], n % 4
        assert (sample.step, sample.place) == (step + n // 4, place)
        assert sample.video.key == manifest[int(batch.index[place])].key
        assert len(views(sample)) == len(batch.views) == 2
        for strip, view in zip(views(sample), batch.views, strict=True):
            assert np.array_equal(strip.frames, denormalised(view[place], augment))


def test_samples_are_numbered_through_epochs_and_stages(numbered):
    (last,) = shown(numbered, stage=1, step=9, count=1)
    # 4 samples a step over 8 videos: step 9 begins with sample 36, which is in the fifth epoch.
    assert (last.number, last.epoch, last.position) == (36, 4, 4)
    assert last.facts == {
        "sample": "36", "epoch": "4", "position": "4", "step": "9", "place": "0"
    }  # fmt: skip


def test_a_stage_ends_the_samples(numbered):
    assert len(shown(numbered, step=5, count=20)) == 4


@pytest.mark.parametrize("more", [(), ("augment.consistent=false",), ("clip.sampling=random",)])
def test_each_number_below_a_picture_is_the_frame_in_it(numbered, more):
    for sample in shown(numbered, *PLAIN, "augment.size=64", *more):
        source, *seen = sample.strips
        for strip in sample.strips:
            assert [read_number(frame) for frame in strip.frames] == strip.numbers
            assert len(strip.numbers) == len(strip.frames)
        assert all(len(view.numbers) == 4 for view in seen)
        assert source.numbers == sorted({n for view in seen for n in view.numbers})
        assert source.facts["decoded"].startswith(f"{len(source.numbers)} frames, ")


def differ_by_rounding(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """A view is made RGB by pipeline/render.py, the source by FFmpeg: two levels apart at most."""
    return np.abs(ours.astype(int) - theirs).max() <= 2


def test_without_augmentation_a_view_is_the_source(numbered):
    for sample in shown(numbered, *PLAIN, "augment.size=64"):
        source, *seen = sample.strips
        for view in seen:
            assert differ_by_rounding(view.frames, source.frames)
            assert view.facts == {
                "crop": "64 × 64 at 0, 0 · 100 %", "flip": "no", "jitter": "no", "grey": "no",
                "blur": "no", "solarise": "no",
            }  # fmt: skip


def test_a_flip_mirrors_and_is_told(numbered):
    flipped = [o.replace("augment.flip=0", "augment.flip=1") for o in PLAIN]
    for sample in shown(numbered, *flipped, "augment.size=64"):
        source, *seen = sample.strips
        for view in seen:
            assert differ_by_rounding(view.frames, source.frames[:, :, ::-1])
            assert view.facts["flip"] == "yes"


def test_the_crop_told_is_the_crop_seen(ramped):
    """The ramps tell the place of every pixel: left and top edge, size and mirror of each view."""
    off = ("augment.jitter=0", "augment.grayscale=0", "augment.blur=0")
    seen = [v for s in shown(ramped, *off, "augment.size=32", count=8) for v in views(s)]
    for view in seen:
        crop = re.match(r"(\d+) × (\d+) at (\d+), (\d+) · (\d+) %", view.facts["crop"])
        width, height, left, top, share = map(int, crop.groups())
        red = view.frames[..., 0].mean(axis=(0, 1)) / 4
        green = view.frames[..., 1].mean(axis=(0, 2)) / 4
        red = red[::-1] if view.facts["flip"] == "yes" else red
        # The slope in the middle, where neither the edge of the picture nor chroma smooths it.
        assert 32 * (red[24] - red[8]) / 16 == pytest.approx(width, abs=1.5)
        assert 32 * (green[24] - green[8]) / 16 == pytest.approx(height, abs=1.5)
        assert red[15:17].mean() + 0.5 == pytest.approx(left + width / 2, abs=1.5)
        assert green[15:17].mean() + 0.5 == pytest.approx(top + height / 2, abs=1.5)
        assert share == pytest.approx(100 * width * height / SIDE**2, abs=3)
    assert {v.facts["flip"] for v in seen} == {"yes", "no"}


def test_the_levels_told_are_the_levels_seen(tmp_path):
    data = data_set(tmp_path, pixels=grey_ramp)
    on = [o.replace("augment.jitter=0", "augment.jitter=1") for o in PLAIN]
    for sample in shown(data, *on, "augment.size=64"):
        source, *seen = sample.strips
        for view in seen:
            gain, sign, offset = re.match(r"(.+?) v ([+−]) (\d+)", view.facts["jitter"]).groups()
            shift = float(offset) * (1 if sign == "+" else -1)
            told = np.clip(float(gain) * source.frames.astype(float) + shift, 0, 255)
            assert np.abs(told - view.frames).max() < 6
            assert np.abs(told - view.frames).mean() < 2


def test_solarise_and_grey_are_told(ramped):
    more = ("augment.grayscale=1", "augment.solarize=1")
    plain = [o for o in PLAIN if not o.startswith("augment.grayscale")]
    for sample in shown(ramped, *plain, *more, "augment.size=64"):
        source, *seen = sample.strips
        luma = source.frames @ np.array([0.299, 0.587, 0.114])
        for view in seen:
            assert (view.facts["grey"], view.facts["solarise"]) == ("yes", "from 128")
            assert view.facts["jitter"] == "no"
            told = np.where(luma >= 128, 255 - luma, luma)[..., None]
            clear = np.abs(luma - 128) > 3
            assert np.abs(told - view.frames)[clear].max() <= 3


def test_a_draw_for_each_frame_is_counted(numbered):
    draws = [
        Draw((0, 0, 1, 1), flip=True),
        Draw((0, 0, 0.5, 1), blur_sigma=1.25, color=saturation(0.0)[:3]),
        Draw((0, 0, 0.5, 0.5), blur_sigma=0.5, solarize_from=128),
    ]
    assert describe(draws, width=64, height=64) == {
        "crop": "anew for each frame · 25 to 100 %",
        "flip": "1 of 3 frames",
        "jitter": "no",
        "grey": "1 of 3 frames",
        "blur": "0.50 to 1.25 px in 2 of 3 frames",
        "solarise": "1 of 3 frames",
    }
    (sample,) = shown(numbered, "augment.consistent=false", count=1)
    assert all(view.facts["crop"].startswith("anew for each frame") for view in views(sample))
    assert len({roi for boxes in sample.strips[0].boxes for _, roi in boxes}) == 8


@given(
    st.floats(0.6, 1.4), st.floats(0.6, 1.4), st.floats(0.6, 1.4), st.floats(-0.4, 0.4),
    st.permutations(range(4)),
)  # fmt: skip
def test_colour_words_undo_any_order_of_the_four_maps(b, c, s, turn, sequence):
    maps = [brightness(b), contrast(c), saturation(s), hue(turn)]
    total = np.eye(4)
    for which in sequence:
        total = maps[which] @ total
    found = re.fullmatch(
        r"(.+) v ([+−]) (.+), saturation (.+), hue ([+−]\d+)°", color_words(total[:3])
    )
    gain, sign, offset, strength, degrees = found.groups()
    lift = (1 - c) * 127.5 * (b if sequence.index(0) > sequence.index(1) else 1)
    assert float(gain) == pytest.approx(b * c, abs=0.0051)
    assert float(offset) * (-1 if sign == "−" else 1) == pytest.approx(lift, abs=0.51)
    assert float(strength) == pytest.approx(s, abs=0.0051)
    assert float(degrees.replace("−", "-")) == pytest.approx(360 * turn, abs=0.51)


def test_contrast_about_the_clip_is_told_as_a_share_of_its_mean():
    of_mean = brightness(0.8)
    of_pixel = brightness(0.5) @ of_mean
    draw = Draw((0, 0, 1, 1), color=of_pixel[:3], mean_matrix=(of_mean - of_pixel)[:3, :3])
    words = describe([draw], width=9, height=9)["jitter"]
    assert words == "0.40 v + 0.40 of the clip's mean, saturation 1.00, hue +0°"
    assert color_words(draw.color, np.zeros((3, 3))).startswith("0.40 v + 0,")


def test_grey_has_no_hue_and_black_no_words_of_colour():
    grey = (saturation(0.0) @ hue(0.2) @ brightness(0.8))[:3]
    assert color_words(grey) == "0.80 v + 0"
    assert describe([Draw((0, 0, 1, 1), color=grey)], width=9, height=9)["jitter"] == "0.80 v + 0"
    assert color_words(brightness(0.0)[:3]) == "0.00 v + 0"


def test_outlines_lie_on_the_crop():
    image = outlined(Image.new("RGB", (100, 80)), [(1, (0.25, 0.5, 0.75, 0.9))])
    color = tuple(int(view_color(1)[n : n + 2], 16) for n in (1, 3, 5))
    marked = np.argwhere((np.asarray(image) == color).all(axis=2))
    assert (marked.min(axis=0).tolist(), marked.max(axis=0).tolist()) == ([20, 50], [59, 89])


def test_a_damaged_video_is_replaced_as_in_training_and_named(tmp_path):
    data = data_set(tmp_path / "own")
    first = shown(data, count=1)[0].video.path
    damage(data, int(Path(first).stem[1:]))
    (sample,) = shown(data, count=1)
    assert sample.video.path != first
    # Replacements are drawn anew until one decodes.
    assert sample.replaced and all(f"{first}: E-" in line for line in sample.replaced)
    html = page([sample], title="t", lead="l", stride=1)
    assert f"in place of {first}" in html


def test_videos_without_labels_say_so(tmp_path):
    (sample,) = shown(data_set(tmp_path, labels=False), count=1)
    assert sample.label == "no label"


# What goes wrong


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["optim.lrr=1"], 2, "error: optim.lrr: unknown key · "),
        (["data.train=none.parquet"], 3, "none.parquet"),
        (["--stage", "nope"], 2, "--stage: the recipe has no stage 'nope', only moco, adversarial"),
        (["--step", "12"], 2, "error: --step: the run ends at step 12, got 12 · "),
        (["--step", "7", "--stage", "moco"], 2, "stage 'moco' has the steps 0 to 5, got 7"),
        (["method.temperature=-1"], 2, "temperature"),
    ],
)
def test_what_is_wrong_is_one_line(numbered, tmp_path, capsys, more, code, line):
    options = [f"data.train={numbered}"] * all("data.train" not in m for m in more)
    assert main([str(SMOKE), *options, *more, "-o", str(tmp_path / "s.png")]) == code
    out = capsys.readouterr()
    assert line in out.err and out.err.count("\n") == 1 and not out.out
    assert not list(tmp_path.iterdir())


def test_a_missing_recipe_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "no.yaml"), "-o", "s.png"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read the recipe · ")


def test_nothing_decodes(tmp_path, capsys):
    data = data_set(tmp_path / "d", videos=4)
    damage(data, 0, 1, 2, 3)
    assert main([str(SMOKE), f"data.train={data}", "-o", str(tmp_path / "s.png")]) == 3
    assert "8 videos in a row cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "s.png").exists()


def test_a_place_that_cannot_be_written(numbered, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "s.png"
    assert main([str(SMOKE), f"data.train={numbered}", "--samples", "1", "-o", str(target)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_full_disk_leaves_no_half_file(numbered, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        code = main([str(SMOKE), f"data.train={numbered}", "-o", str(tmp_path / "s.png")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2
    assert capsys.readouterr().err == (
        f"error[E-DISK]: File too large · {tmp_path}/s.png · free some space and give the same "
        "command again\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_missing_library_points_to_the_doctor(numbered, tmp_path, capsys, monkeypatch):
    def lacking(*_, **__):
        raise ModuleNotFoundError("No module named 'nvidia'", name="nvidia")

    monkeypatch.setattr(stages, "training_loader", lacking)
    assert main([str(SMOKE), f"data.train={numbered}", "-o", str(tmp_path / "s.png")]) == 2
    assert capsys.readouterr().err.endswith("python -m tools.doctor\n")


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (["-o", "s.jpg"], "expected a name that ends in .png, got 's.jpg'"),
        (["-o", "s.png", "--html", "x"], "expected a name that ends in .html, got 'x'"),
        (["-o", "s.png", "--samples", "0"], "expected a whole number above 0, got '0'"),
        (["-o", "s.png", "--samples", "101"], "expected at most 100, got 101"),
        (["-o", "s.png", "--step", "-1"], "--step"),
        ([], "-o"),
    ],
)
def test_usage(capsys, option, line):
    with pytest.raises(SystemExit) as stopped:
        main([str(SMOKE), *option])
    assert stopped.value.code == 2
    assert line in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="no stage 'x'"):
        data = data_set(tmp_path, videos=4)
        main([str(SMOKE), f"data.train={data}", "--stage", "x", "-o", "s.png", "--debug"])


def test_the_command_takes_overrides_anywhere(numbered, tmp_path, monkeypatch):
    arguments = ["--samples", "1", str(SMOKE), "-o", str(tmp_path / "s.png"), "augment.size=20"]
    monkeypatch.setattr(sys, "argv", ["preview", *arguments, f"data.train={numbered}"])
    with pytest.warns(RuntimeWarning, match="tools.preview"), pytest.raises(SystemExit) as stopped:
        runpy.run_module("tools.preview", run_name="__main__")
    assert stopped.value.code == 0 and (tmp_path / "s.png").exists()
