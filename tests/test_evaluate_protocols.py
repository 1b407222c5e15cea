"""Every protocol as a user calls it, on videos of a second."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import evaluate
from models import build_backbone
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests.conftest import damage
from tests.test_evaluate import ROOT, SMALL, arguments, refused, result
from tests.videos import write_video
from training import config, features
from training.protocols import MEASURES, inputs, linear
from training.protocols.retrieval import centered

PRESETS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))
SGD = ["eval.solver=sgd", "eval.batch_size=4", "eval.epochs=2"]


@pytest.fixture
def measured(tiny_data, tmp_path):
    """Runs a protocol on the tiny videos; returns its folder."""

    def measure(protocol: str, *more: str, folder: str = "out", source="pixels", code=0) -> Path:
        output = tmp_path / folder
        args = arguments(tiny_data, tiny_data, output, *more, protocol=protocol, source=source)
        assert evaluate.main(args) == code
        return output

    return measure


# What each protocol finds in copies of its own training videos


@pytest.mark.parametrize(
    ("protocol", "options", "expected"),
    [
        ("retrieval", [], {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}),
        ("knn", ["eval.k=1"], {"top-1": 1.0}),
        ("linear", [], {"top-1": 1.0}),
        ("svm", ["eval.c=1000"], {"top-1": 1.0}),
        ("semi", ["eval.per_cent=[100]"], {"top-1 of 100 %": 1.0}),
    ],
)
def test_duplicates_are_answered_rightly(protocol, options, expected, measured):
    if protocol == "svm":
        pytest.importorskip("sklearn")
    content = result(measured(protocol, *options, source="random"), protocol)
    assert {name: content["result"][name] for name in expected} == expected
    assert content["intervals_95"] == {name: [1.0, 1.0] for name in expected}
    assert sum(row["videos"] for row in content["per_class"].values()) == 10


def test_the_same_commands_write_the_same_bytes(measured):
    pytest.importorskip("sklearn")
    options = {"knn": ["eval.k=3"], "finetune": SGD[1:], "semi": ["eval.per_cent=[50]"]}
    seen = []
    for _ in range(2):
        for protocol in MEASURES:
            folder = measured(protocol, *options.get(protocol, []), source="random")
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
        for path in folder.iterdir():
            path.unlink()
    assert seen[0] == seen[1] and {f"{protocol}.json" for protocol in MEASURES} < seen[0].keys()
    assert json.loads(seen[0]["knn.json"])["environment"]["libraries"]["numpy"]


# Clips


def test_windows_and_random_clips(measured):
    """ViCC's: a random clip of a training video, the mean of the windows of a test video."""
    options = ["eval.train=random", "eval.test=windows", "eval.window_step=2", "run.seed=4"]
    folder = measured("retrieval", *options, source="random")
    content = result(folder)
    assert content["train"]["sampling"] == "random" and content["train"]["seed"] == 4
    assert (content["test"]["sampling"], content["test"]["step"]) == ("windows", 2)
    means = features.read(folder / "features_test.npz")[1]
    clips = measured("features", "eval.format=per_video", *options, source="random", folder="clips")
    for row in range(10):
        own = np.load(clips / "test" / f"v{row}.npy")
        assert own.shape == ((12 + row - 7) // 2 + 1, 32)  # clips span 7 frames
        np.testing.assert_allclose(means.raw[row].numpy(), own.mean(0), atol=1e-5)


def test_a_video_with_a_window_that_fails_fails(own_data, tiny_data, tmp_path):
    damage(own_data, 3)
    args = arguments(tiny_data, own_data, tmp_path / "out", "eval.test=windows")
    assert evaluate.main(args) == 3
    content = result(tmp_path / "out")["test"]
    assert (content["evaluated"], content["of"]) == (9, 10)
    (failed,) = content["failed"]
    assert (failed["index"], failed["key"]) == (3, "v3")


def test_centring_changes_what_is_found(measured):
    folder = measured("retrieval", "eval.center=true", source="random")
    assert result(folder)["options"]["center"] is True
    kept = features.read(folder / "features_test.npz")[1]
    assert not torch.allclose(centered(kept).feature, kept.feature, atol=0.1)


# Classifiers on augmented clips


def test_a_frozen_encoder_stays_as_it_is(measured, monkeypatch):
    """Batch norm in the classifier learns, that of the encoder does not."""
    seen, original = [], linear.classifier

    def keep(*args, **named):
        seen.append(original(*args, **named))
        return seen[-1]

    encoders, build = [], evaluate.Job.encoder
    monkeypatch.setattr(linear, "classifier", keep)
    monkeypatch.setattr(
        evaluate.Job, "encoder", lambda self: encoders.append(build(self)) or encoders[-1]
    )
    folder = measured("linear", *SGD, "eval.batch_norm=true", "eval.l2=true", source="random")
    assert len(encoders) == 1
    torch.manual_seed(0)
    fresh = build_backbone("r3d_18", width=4).state_dict()
    for name, tensor in encoders[0].state_dict().items():
        assert torch.equal(tensor, fresh[name]), name
    _, norm, layer = seen[0]
    assert norm.num_batches_tracked == 5 and layer.weight.std() > 0.011
    content = result(folder, "linear")
    assert content["options"]["solver"] == "sgd" and content["test"]["evaluated"] == 10
    stored = np.load(folder / "linear_probabilities.npz")
    np.testing.assert_allclose(stored["probabilities"].sum(1), 1, atol=1e-5)
    right = stored["probabilities"].argmax(1) == stored["label"]
    assert right.mean() == content["result"]["top-1"]


def test_training_lists_the_videos_that_fail(own_data, tiny_data, tmp_path):
    (own_data.parent / "v3.mp4").write_bytes(b"no video at all")
    args = arguments(
        own_data, tiny_data, tmp_path / "out", *SGD, protocol="linear", source="random"
    )
    assert evaluate.main([*args, "--max-failed", "1"]) == 0
    content = result(tmp_path / "out", "linear")["train"]
    assert (content["evaluated"], content["of"]) == (9, 10)
    assert [entry["key"] for entry in content["failed"]] == ["v3"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> tuple[Path, Path]:
    """Training and test videos of noise, half of them red and half of them blue."""
    folder, rng, paths = tmp_path_factory.mktemp("colours"), np.random.default_rng(0), []
    for part in ("train", "test"):
        rows = []
        for number in range(8):
            base = np.array([[200, 40, 40], [40, 40, 200]])[number % 2]
            picture = np.clip(base + rng.integers(-40, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            path = write_video(
                folder / f"{part}{number}.mp4",
                frames=9,
                size=(32, 32),
                pixels=lambda n, p=picture: p,
            )
            rows.append(Video.of(probe(path), key=path.stem, path=path, label=number % 2))
        paths.append(folder / f"{part}.parquet")
        write_manifest(paths[-1], rows, classes=["red", "blue"], options={})
    return paths[0], paths[1]


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_classes_that_differ_in_colour_are_learnt(protocol, colours, tmp_path):
    options = ["eval.batch_size=8", "augment.jitter=0", "augment.grayscale=0"]
    if protocol == "linear":
        options += ["eval.solver=sgd", "eval.batch_norm=true", "eval.epochs=12"]
    else:  # running statistics of batch norm follow the weights slowly
        options += ["eval.epochs=40", "eval.optim.lr=0.03"]
    args = arguments(*colours, tmp_path, *options, protocol=protocol, source="random")
    args.remove("--allow-overlap")
    assert evaluate.main(args) == 0
    content = result(tmp_path, protocol)
    assert content["result"]["top-1"] == 1.0 and content["chance"]["top-1"] == 0.5


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_options_of_their_protocol(preset):
    protocol = yaml.safe_load(preset.read_text())["protocol"]
    options, overrides = inputs.read_preset(str(preset), protocol)
    typed = config.group("eval", MEASURES[protocol].Options, (options, str(preset)))
    assert typed != MEASURES[protocol].Options()
    recipe = config.load(SMALL, overrides)
    assert recipe.clip.frames in (1, 32)


def test_cvrls_preset_has_the_numbers_of_its_code():
    """methods.md 2.3."""
    options, overrides = inputs.read_preset(str(PRESETS[0]), "linear")
    typed = config.group("eval", linear.Options, (options, "x"))
    recipe = config.load(SMALL, overrides)
    assert (typed.solver, typed.l2, typed.batch_norm) == ("sgd", True, False)
    optim = typed.optim
    assert (optim.lr, optim.momentum, optim.weight_decay) == (32.0, 0.9, 0.0)
    assert (optim.schedule, optim.warmup_epochs) == ("cosine", 5)
    assert (typed.epochs, typed.batch_size) == (100, 1024)
    assert (typed.clips, recipe.augment.eval_crops) == (10, 3)
    assert (typed.size, typed.train_size) == (256, 224)
    assert (recipe.clip.frames, recipe.clip.stride) == (32, 2)
    assert (recipe.augment.scale, recipe.augment.ratio) == ([0.3, 1.0], [0.5, 2.0])


def test_the_command_line_is_over_the_preset(measured, tmp_path):
    preset = tmp_path / "own.yaml"
    preset.write_text("protocol: knn\neval: {k: 3, clips: 5}\nclip: {stride: 1}\n")
    folder = measured("knn", "--preset", str(preset), "eval.temperature=0.5")
    content = result(folder, "knn")
    assert content["options"] == {
        "clips": 2, "train": "uniform", "test": "uniform", "window_step": 0, "size": 0, "k": 3,
        "temperature": 0.5,
    }  # fmt: skip
    assert content["views"]["stride"] == 1


# Features for others


@pytest.fixture(scope="module")
def retrieved(tiny_data, tmp_path_factory) -> features.Features:
    """Those of the test videos that a retrieval was measured with."""
    folder = tmp_path_factory.mktemp("retrieved")
    assert evaluate.main(arguments(tiny_data, tiny_data, folder, source="random")) == 0
    return features.read(folder / "features_test.npz")[1]


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_features_of_videos_are_those_that_are_measured(kind, retrieved, measured):
    folder = measured("features", f"eval.format={kind}", source="random", folder="exported")
    path = folder / f"test.{kind}"
    if kind == "npz":
        with np.load(path) as stored:
            found, keys = stored["feature"], stored["key"].tolist()
    elif kind == "npy":
        found = np.load(path)
        rows = list(csv.DictReader((folder / "test.csv").open()))
        keys = [row["key"] for row in rows]
    else:
        table = pq.read_table(path)
        found = np.array(table["feature"].to_pylist(), dtype=np.float32)
        keys = table["key"].to_pylist()
    assert keys == [f"v{n}" for n in range(10)]
    np.testing.assert_allclose(found, retrieved.raw.numpy(), rtol=1e-6)


def test_features_need_no_labels_and_one_set(tmp_path, own_data):
    manifest = Manifest.read(own_data)
    plain = own_data.with_name("plain.parquet")
    rows = [vars_of(video) | {"label": -1} for video in manifest]
    write_manifest(plain, [type(manifest[0])(**row) for row in rows], classes=[], options={})
    command = ["features", "--checkpoint", "pixels", "--recipe", SMALL, "--test", str(plain)]
    command += ["-o", str(tmp_path / "out"), "eval.of=clip", "--clips", "3"]
    assert evaluate.main(command) == 0
    with np.load(tmp_path / "out" / "test.npz") as stored:
        assert stored["feature"].shape[0] == 30 and stored["row"].tolist()[:4] == [0, 0, 0, 1]
        assert stored["start_frame"].tolist()[:3] == [0, 2, 5]  # 12 frames, clips span 7


def vars_of(video) -> dict:
    return {name: getattr(video, name) for name in type(video).__dataclass_fields__}


def test_csvs_have_a_hundred_rows_and_the_meta_file_says_how_far_apart(measured):
    folder = measured("features", "eval.format=csv", "eval.test=windows", source="random")
    lines = (folder / "test" / "v9.csv").read_text().splitlines()
    assert len(lines) == 101 and lines[0].startswith("f0,f1,") and lines[0].endswith(",f31")
    table = np.loadtxt(folder / "test" / "v9.csv", delimiter=",", skiprows=1)
    assert table.shape == (100, 32)
    meta = json.loads((folder / "test_meta.json").read_text())
    assert (meta["window_frames"], meta["window_step_frames"], meta["dim"]) == (7, 3, 32)
    assert meta["videos"]["v9"] == {
        "rows": 5, "frames": 21, "fps": 25.0, "seconds": 0.84, "label": 1,
    }  # fmt: skip


def test_a_key_that_leads_out_of_the_folder(own_data, tmp_path, capsys):
    manifest = Manifest.read(own_data)
    rows = [vars_of(video) for video in manifest]
    rows[0]["key"] = "../../evil"
    hostile = own_data.with_name("hostile.parquet")
    video = type(manifest[0])
    write_manifest(hostile, [video(**row) for row in rows], classes=manifest.classes, options={})
    command = ["features", "--checkpoint", "pixels", "--recipe", SMALL, "--test", str(hostile)]
    command += ["-o", str(tmp_path / "out"), "eval.format=per_video", "--clips", "1"]
    line = refused(capsys, command, 3)
    assert line == f"error: the key '../../evil' makes no file name · {hostile}"
