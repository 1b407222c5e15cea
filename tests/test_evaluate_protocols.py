"""Every protocol as a user calls it, on videos of a second."""

import builtins
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import evaluate
from models import build_backbone, build_method
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests.conftest import damage
from tests.test_evaluate import ROOT, SMALL, arguments, refused, result
from tests.videos import write_video
from training import checkpoint, config, features
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
    content = result(measured(protocol, *options), protocol)
    assert {name: content["result"][name] for name in expected} == expected
    assert content["intervals_95"] == {name: [1.0, 1.0] for name in expected}
    assert sum(row["videos"] for row in content["per_class"].values()) == 10


def test_the_same_commands_write_the_same_bytes(measured):
    pytest.importorskip("sklearn")
    options = {"knn": ["eval.k=3"], "finetune": SGD[1:]}
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


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_features_of_videos_are_those_that_are_measured(kind, measured):
    kept = features.read(measured("retrieval", source="random") / "features_test.npz")[1]
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
    np.testing.assert_allclose(found, kept.raw.numpy(), rtol=1e-6)


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


# Two streams together


@pytest.fixture(scope="module")
def both(tiny_data, tmp_path_factory) -> list[Path]:
    """Results of two encoders in two folders, as of two streams."""
    folder = tmp_path_factory.mktemp("two")
    for source in ("pixels", "random"):
        for protocol in ("retrieval", "linear"):
            args = arguments(tiny_data, tiny_data, folder / source, "clip.stride=1",
                             protocol=protocol, source=source)  # fmt: skip
            assert evaluate.main(args) == 0
    return [folder / "pixels", folder / "random"]


@pytest.fixture
def two(both, tmp_path) -> list[Path]:
    """A copy of them, for one test."""
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in both]


def fused(folders: list[Path], output: Path, *more: str) -> list[str]:
    return ["fuse", "--results", *map(str, folders), "-o", str(output), *more]


def test_similarities_are_summed(two, tmp_path):
    assert evaluate.main(fused(two, tmp_path / "both")) == 0
    parts = {
        part: [features.read(folder / f"features_{part}.npz")[1] for folder in two]
        for part in ("train", "test")
    }
    pairs = zip(parts["test"], parts["train"], strict=True)
    similarity = sum(a.feature.double().numpy() @ b.feature.double().numpy().T for a, b in pairs)
    label = parts["train"][0].label.numpy()
    best = (-similarity).argsort(axis=1, kind="stable")
    right = label[best] == parts["test"][0].label.numpy()[:, None]
    content = result(tmp_path / "both")
    for k in (1, 5, 10):
        assert content["result"][f"R@{k}"] == right[:, :k].any(1).mean()
    assert content["protocol"] == "retrieval" and len(content["joined"]) == 2
    joined = features.read(tmp_path / "both" / "features_test.npz")[1]
    torch.testing.assert_close(joined.feature.norm(dim=1), torch.ones(10))


def test_probabilities_are_averaged(two, tmp_path):
    assert evaluate.main(fused(two, tmp_path / "both", "--of", "linear")) == 0
    stored = [np.load(folder / "linear_probabilities.npz") for folder in two]
    mean = (stored[0]["probabilities"] + stored[1]["probabilities"]) / 2
    written = np.load(tmp_path / "both" / "linear_probabilities.npz")["probabilities"]
    np.testing.assert_allclose(written, mean, atol=1e-7)
    content = result(tmp_path / "both", "linear")
    assert content["result"]["top-1"] == (mean.argmax(1) == stored[0]["label"]).mean()
    assert content["checkpoint"] == "pixels + random"


def test_a_video_that_failed_in_one_stream_is_left_out_and_listed(own_data, tiny_data, tmp_path):
    assert evaluate.main(arguments(tiny_data, own_data, tmp_path / "a")) == 0
    damage(own_data, 3)
    assert evaluate.main(arguments(tiny_data, own_data, tmp_path / "b")) == 3
    folders = [tmp_path / "a", tmp_path / "b"]
    assert evaluate.main(fused(folders, tmp_path / "both")) == 3
    assert evaluate.main(fused(folders, tmp_path / "both", "--max-failed", "1")) == 0
    content = result(tmp_path / "both")["test"]
    assert (content["evaluated"], content["of"]) == (9, 10)
    assert [entry["key"] for entry in content["failed"]] == ["v3"]


def test_results_that_differ_cannot_be_joined(measured, two, own_data, tmp_path, capsys):
    other = measured("retrieval", "eval.center=true", folder="other")
    line = refused(capsys, fused([two[0], other], tmp_path / "both"), 2)
    assert line == (
        f"error: the results differ in options and cannot be joined · {two[0]} and {other} · "
        "measure both with the same command"
    )
    manifest = Manifest.read(own_data)
    fewer = own_data.with_name("fewer.parquet")
    write_manifest(fewer, [manifest[n] for n in range(9)], classes=manifest.classes, options={})
    assert evaluate.main(arguments(own_data, fewer, other)) == 0
    line = refused(capsys, fused([two[0], other], tmp_path / "both"), 2)
    assert line.startswith("error: the results differ in test.fingerprint and cannot be joined")


def test_stale_files_are_not_joined(measured, two, tmp_path, capsys):
    measured("retrieval", "clip.stride=2", folder="pixels")
    (two[0] / "retrieval.json").write_bytes((two[1] / "retrieval.json").read_bytes())
    line = refused(capsys, fused(two, tmp_path / "both"), 2)
    assert line == (
        "error: the features are not those of retrieval.json beside them · "
        f"{two[0] / 'features_train.npz'} · run evaluate.py retrieval again"
    )
    (two[0] / "linear.json").write_bytes((two[1] / "linear.json").read_bytes())
    line = refused(capsys, fused(two, tmp_path / "both", "--of", "linear"), 2)
    assert line.startswith("error: they are not of the linear.json beside them · ")


def test_nothing_to_join(two, tmp_path, capsys):
    line = refused(capsys, fused([two[0], tmp_path], tmp_path / "both"), 2)
    assert line == (
        f"error: no result of evaluate.py · {tmp_path / 'retrieval.json'} · run the protocol first"
    )
    line = refused(capsys, fused(two, two[0]), 2)
    assert line == (
        f"error: the joined result would replace one of the two · {two[0]} · choose another "
        "folder with -o"
    )


VICC = """
clip: {frames: 4, stride: 2}
augment: {size: 32}
flow: {operator: tvl1, tvl1: {scales: 1, warps: 1, iterations: 2}}
backbone: {name: r3d_18, width: 4}
data: {workers: 0, prefetch_batches: 1}
method: {name: vicc, dim: 8, prototypes: [4], queue_size: 0, batch_norm: plain}
run: {precision: fp32, device: cpu, threads: 1}
"""


def test_both_streams_of_one_checkpoint(tiny_data, tmp_path):
    (tmp_path / "vicc.yaml").write_text(VICC)
    recipe = config.load(tmp_path / "vicc.yaml", [])
    torch.manual_seed(3)
    backbone = build_backbone(**recipe.backbone.network())
    method = build_method("vicc", backbone, frames=4, size=32, **recipe.method_options())
    for stream in method.streams.values():
        stream.steps += 1
    state = checkpoint.Checkpoint(
        step=1, stage="", method=method.state_dict(), optimizer={}, config=recipe.plain(),
        classes=["even", "odd"], data_fingerprint="", versions={},
    )  # fmt: skip
    path = checkpoint.save(tmp_path / "checkpoints", state, keep=2)
    args = arguments(
        tiny_data,
        tiny_data,
        tmp_path / "out",
        "eval.test=windows",
        protocol="fuse",
        source=str(path),
    )
    assert evaluate.main(args) == 0
    rgb, flow, both = (result(tmp_path / "out" / name) for name in ("rgb", "flow", "."))
    assert (rgb["views"]["stream"], flow["views"]["stream"]) == ("rgb", "flow")
    assert [part["views"]["stream"] for part in both["joined"]] == ["rgb", "flow"]
    own = [
        features.read(tmp_path / "out" / name / "features_test.npz")[1].feature
        for name in ("rgb", "flow")
    ]
    assert not torch.allclose(*own, atol=1e-2)
    assert flow["test"]["sampling"] == "windows" and both["test"]["evaluated"] == 10


# Several splits, and two results beside each other


def test_the_mean_over_splits(tiny_data, tmp_path, capsys):
    manifest = Manifest.read(tiny_data)
    paths = []
    for number in range(2):
        rows = [manifest[n] for n in range(4 * number, 4 * number + 6)]
        path = tmp_path / f"split{number}.parquet"
        write_manifest(path, rows, classes=manifest.classes, options={})
        paths.append(str(path))
    args = arguments(tiny_data, paths[0], tmp_path / "out", "--train", str(tiny_data),
                     "--test", paths[1], "eval.k=9", protocol="knn")  # fmt: skip
    assert evaluate.main(args) == 0
    mean = result(tmp_path / "out", "knn")
    own = [result(tmp_path / "out" / f"split{n}", "knn")["result"]["top-1"] for n in (1, 2)]
    assert mean["result"]["top-1"] == pytest.approx(sum(own) / 2)
    assert [one["top-1"] for one in mean["splits"]] == own
    assert "knn of pixels, mean of 2 splits: top-1" in capsys.readouterr().out
    path = str(tmp_path / "out" / "knn.json")
    assert evaluate.main(["--compare", path, path]) == 0


def test_two_results_beside_each_other(two, capsys):
    capsys.readouterr()
    paths = [str(folder / "linear.json") for folder in two]
    assert evaluate.main(["--compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A: pixels" and lines[1] == "B: random"
    shares = [100 * result(folder, "linear")["result"]["top-1"] for folder in two]
    assert lines[3].split()[0] == "top-1" and lines[3].endswith(f"{shares[1] - shares[0]:+.1f}")
    assert lines[-1].split() == ["test", "videos", "10/10", "10/10"]


def test_results_of_other_protocols_are_not_compared(measured, two, capsys):
    other = measured("linear", "clip.stride=2", "eval.clips=3", folder="other")
    paths = [str(two[0] / "linear.json"), str(other / "linear.json")]
    line = refused(capsys, ["--compare", *paths], 2)
    assert line.startswith("error: the protocols differ in options.clips, ")
    assert " · 2 and 3; " in line
    paths[1] = str(two[0] / "retrieval.json")
    line = refused(capsys, ["--compare", *paths], 2)
    assert "protocol" in line and line.endswith("measure both with the same options and manifests")
    (other / "own.json").write_text("{}")
    line = refused(capsys, ["--compare", paths[0], str(other / "own.json")], 2)
    assert line == (
        f"error: a JSON file, but no result of this version of evaluate.py · {other / 'own.json'} "
        "· run the protocol again"
    )


# Commands that cannot work


def test_a_test_video_that_is_a_training_video(tiny_data, own_data, tmp_path, capsys):
    args = arguments(tiny_data, own_data, tmp_path)
    args.remove("--allow-overlap")
    assert refused(capsys, args, 3) == (
        f"error: 10 of 10 test videos are training videos, too (as v0) · {own_data} · python -m "
        "tools.verify lists them; --allow-overlap measures all the same"
    )


def test_a_class_without_training_videos(tiny_data, tmp_path, capsys):
    videos = [video for video in Manifest.read(tiny_data) if video.label == 0]
    path = tmp_path / "even.parquet"
    write_manifest(path, videos, classes=["even", "odd"], options={})
    assert refused(capsys, arguments(path, tiny_data, tmp_path / "out"), 3) == (
        f"error: 1 of 2 classes have no training video ['odd'] · {path} · index videos of them, or "
        "both sets without them"
    )


@pytest.mark.parametrize(
    ("protocol", "options", "line"),
    [
        ("knn", ["eval.k=11"],
         "error: eval.k: 11 neighbours of a gallery of 10 videos · lower eval.k"),
        ("knn", ["eval.k=0"],
         "error: eval.k=0 eval.temperature=0.07: expected 1 neighbour or more and a temperature "
         "above 0"),
        ("retrieval", ["eval.clips=0"], "error: eval.clips: expected at least 1, got 0"),
        ("retrieval", ["eval.centre=true"],
         "error: eval.centre: unknown key · the command line · did you mean 'eval.center'?"),
        ("linear", ["eval.epochs=3"], "error: eval.epochs has no effect without eval.solver=sgd"),
        ("linear", ["eval.solver=sgd", "eval.batch_size=11"],
         "error: eval.batch_size: expected 1 to 10, the training videos, got 11"),
        ("linear", [*SGD, "eval.optim.lr=0"], "error: eval.optim.lr: expected above 0, got 0.0"),
        ("linear", SGD,
         "error: eval.solver=sgd trains behind a network, and pixels is none · use "
         "eval.solver=lbfgs"),
        ("finetune", ["eval.dropout=1", *SGD[1:]],
         "error: eval.dropout: expected at least 0 and less than 1, got 1.0"),
        ("finetune", ["eval.layer_lr=0", *SGD[1:]],
         "error: eval.layer_lr: expected more than 0, got 0.0"),
        ("finetune", SGD[1:], "error: pixels is no network that could be fine-tuned"),
        ("svm", ["eval.c=0"], "error: eval.c: expected more than 0, got 0.0"),
        ("semi", ["eval.per_cent=[0]"],
         "error: eval.per_cent: expected numbers above 0 and up to 100, got [0.0]"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(protocol, options, line, tiny_data, tmp_path, capsys):
    args = arguments(tiny_data, tiny_data, tmp_path, *options, protocol=protocol)
    assert refused(capsys, args, 2) == line


def test_svm_without_scikit_learn(tiny_data, tmp_path, capsys, monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **named):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    args = arguments(tiny_data, tiny_data, tmp_path, protocol="svm")
    assert refused(capsys, args, 2) == (
        "error: the protocol svm needs scikit-learn, which is not installed · pip install "
        "scikit-learn"
    )


def test_a_preset_of_another_protocol(tiny_data, tmp_path, capsys):
    preset = next(str(path) for path in PRESETS if path.stem == "cvrl_linear")
    args = arguments(tiny_data, tiny_data, tmp_path, "--preset", preset)
    assert refused(capsys, args, 2) == (
        f"error: the preset is one of linear, not of retrieval · {preset} · run evaluate.py linear"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "required: protocol, --output, --checkpoint, --train, --test"),
        (["features", "-o", "x", "--checkpoint", "random"], "required: --test"),
        (["fuse", "-o", "x"], "required: --checkpoint, --train, --test"),
        (["knn", "-o", "x", "--checkpoint", "random", "--train", "a", "--test", "b", "--test", "c"],
         "--train and --test go together, once for each split"),
    ],
)  # fmt: skip
def test_what_a_command_lacks(args, said, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(args)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    said = capsys.readouterr().out
    for word in ("eval.KEY", "center=false", "temperature=0.07", "optim.lr=0.1", "format=npz"):
        assert word in said
