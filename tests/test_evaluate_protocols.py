"""Every protocol as a user calls it, on videos of a second."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import evaluate
from models import build_backbone
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests.conftest import damage
from tests.test_evaluate import ROOT, SMALL, arguments, result
from tests.videos import write_video
from training import config, features
from training.protocols import MEASURES, inputs, linear
from training.protocols.retrieval import centered

PRESETS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))
SGD = ["eval.solver=sgd", "eval.batch_size=4", "eval.epochs=2"]


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
    assert content["train"].get("labelled") == ({"100 %": 10} if protocol == "semi" else None)
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
    folder = measured("retrieval", *options, source="random", clips=None)
    content = result(folder)
    assert content["train"]["sampling"] == "random" and content["train"]["seed"] == 4
    assert (content["test"]["sampling"], content["test"]["step"]) == ("windows", 2)
    means = features.read(folder / "features_test.npz")[1]
    clips = measured("features", "eval.format=per_video", *options, source="random", clips=None,
                     folder="clips")  # fmt: skip
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
    assert (content["training"]["size"], content["training"]["jitter"]) == (16, 0.8)
    stored = np.load(folder / "linear_probabilities.npz")
    np.testing.assert_allclose(stored["probabilities"].sum(1), 1, atol=1e-5)
    right = stored["probabilities"].argmax(1) == stored["label"]
    assert right.mean() == content["result"]["top-1"]


def test_all_views_are_averaged_as_asked(measured, monkeypatch, capsys):
    """Two clips of ten crops, of eight videos and of two: what the layer says of each is seen.

    Other test views in the same folder are of the same training.
    """
    said, original = [], linear.classifier

    def watched(*args, **named):
        head = original(*args, **named)
        head.register_forward_hook(
            lambda module, _, logits: None if module.training else said.append(logits)
        )
        return head

    monkeypatch.setattr(linear, "classifier", watched)
    fit, found = [*SGD, "eval.optim.lr=5"], {}
    measured("linear", *fit, source="random")
    assert "step 5/5" in capsys.readouterr().out
    said.clear()
    ten = ["augment.eval_crops=10", "augment.eval_scale=0.5"]
    for mean_of in ("probabilities", "logits"):
        folder = measured("linear", *fit, *ten, f"eval.mean_of={mean_of}", source="random")
        found[mean_of] = np.load(folder / "linear_probabilities.npz")["probabilities"]
        views = result(folder, "linear")["views"]
        assert (views["crops"], views["mean_of"]) == (10, mean_of)
        assert views["crop"] == "four corners and the centre, and their mirror images"
    assert "step " not in capsys.readouterr().out
    logits = torch.cat([torch.stack(said[:20]), torch.stack(said[20:40])], dim=1)  # [20, 10, 2]
    of_mean, mean = logits.mean(0).softmax(1), logits.softmax(2).mean(0)
    assert not torch.allclose(of_mean, mean, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], mean, atol=1e-6)
    np.testing.assert_allclose(found["logits"], of_mean, atol=1e-6)


def test_features_of_an_earlier_stage(measured):
    """r3d_18 of width 4 has 8 channels after its second stage, and classifiers behind it learn."""
    folder = measured("retrieval", "eval.layer=layer2", source="random")
    assert features.read(folder / "features_test.npz")[1].feature.shape == (10, 8)
    assert result(folder)["options"]["layer"] == "layer2"
    first = features.read(folder / "features_test.npz")[1].feature
    measured("retrieval", "eval.layer=layer1", source="random")
    assert features.read(folder / "features_test.npz")[1].feature.shape == (10, 4)
    measured("linear", *SGD, "eval.layer=layer2", source="random")
    exported = measured("features", "eval.layer=layer2", "eval.l2=true", source="random",
                        folder="exported")  # fmt: skip
    np.testing.assert_array_equal(np.load(exported / "test.npz")["feature"], first)


# Few labels


def test_all_of_the_labels_are_no_few_ones(measured):
    """With 100 per cent of the labels, by every solver, `semi` is the protocol that it is of."""
    for solver, protocol in (("sgd", "linear"), ("finetune", "finetune")):
        fit = [*SGD[1:], "eval.optim.weight_decay=0"]
        own = ["eval.solver=sgd"] if protocol == "linear" else []
        folder = measured(protocol, *fit, *own, source="random")
        measured("semi", *fit, f"eval.solver={solver}", "eval.per_cent=[100]", source="random")
        by_name = {
            name: features.read(folder / f"{name}_outputs.npz")[1].raw
            for name in (protocol, "semi_100pct")
        }
        assert torch.equal(*by_name.values())
        content = result(folder, "semi")
        assert content["result"] == {
            "top-1 of 100 %": result(folder, protocol)["result"]["top-1"]
        }  # fmt: skip


def test_videos_outside_the_list_are_not_looked_at(own_data, tiny_data, tmp_path, capsys):
    args = arguments(own_data, tiny_data, tmp_path / "out", "eval.solver=finetune", *SGD[1:],
                     "eval.per_cent=[40]", protocol="semi", source="random")  # fmt: skip
    assert evaluate.main(args) == 0
    kept = (tmp_path / "out" / "semi_40pct.txt").read_text().split()
    assert len(kept) == 4
    others = [n for n in range(10) if f"v{n}" not in kept]
    damage(own_data, *others)
    assert evaluate.main([*args, "-o", str(tmp_path / "again")]) == 0
    assert "train: evaluated 10/10, labels of 4 (40 %)\n" in capsys.readouterr().out
    assert result(tmp_path / "again", "semi")["train"]["failed"] == []
    damage(own_data, int(kept[0][1:]))
    assert evaluate.main([*args, "-o", str(tmp_path / "third")]) == 3
    content = result(tmp_path / "third", "semi")["train"]
    assert [entry["key"] for entry in content["failed"]] == kept[:1]
    assert content["labelled"] == {"40 %": 3}


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


@pytest.mark.parametrize("protocol", ["finetune", "semi"])
def test_labels_that_nothing_tells_are_answered_by_chance(protocol, colours, tmp_path):
    """Of either colour half of the videos have either label."""
    paths = []
    for path in colours:
        rows = [replace(video, label=n // 2 % 2) for n, video in enumerate(Manifest.read(path))]
        paths.append(path.with_name(f"shuffled_{path.name}"))
        write_manifest(paths[-1], rows, classes=["yes", "no"], options={})
    options = ["eval.batch_size=4", "eval.epochs=4", "eval.optim.lr=0.03"]
    options += ["eval.solver=finetune", "eval.per_cent=[100]"] if protocol == "semi" else []
    args = arguments(*paths, tmp_path / "out", *options, protocol=protocol, source="random")
    assert evaluate.main(args) == 0
    content = result(tmp_path / "out", protocol)
    ((low, high),) = content["intervals_95"].values()
    assert low <= 0.5 <= high and list(content["chance"].values()) == [0.5]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_options_of_their_protocol(preset):
    protocol = yaml.safe_load(preset.read_text())["protocol"]
    options, overrides = inputs.read_preset(str(preset), protocol)
    typed = config.group("eval", MEASURES[protocol].Options, (options, str(preset)))
    assert typed != MEASURES[protocol].Options()
    recipe = config.load(SMALL, overrides)
    assert recipe.clip.frames in (1, 32) or preset.stem.startswith("demo_")


def test_cvrls_preset_has_the_numbers_of_its_code():
    """methods.md 2.3."""
    options, overrides = inputs.read_preset(
        str(ROOT / "configs" / "eval" / "cvrl_linear.yaml"), "linear"
    )
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
        "clips": 2, "train": "uniform", "test": "uniform", "window_step": 0, "size": 0, "layer": "",
        "k": 3, "temperature": 0.5,
    }  # fmt: skip
    assert content["views"]["stride"] == 1
