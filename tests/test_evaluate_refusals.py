"""Commands that evaluate.py refuses, each in one line."""

import builtins
from dataclasses import replace

import pytest

import evaluate
from pipeline.manifest import Manifest, write_manifest
from tests.test_evaluate import ROOT, arguments, refused
from tests.test_evaluate_protocols import SGD


def test_a_test_video_that_is_a_training_video(tiny_data, own_data, tmp_path, capsys):
    args = arguments(tiny_data, own_data, tmp_path)
    args.remove("--allow-overlap")
    assert refused(capsys, args, 3) == (
        f"error: 10 of 10 test videos are training videos, too (as v0) · {own_data} · python -m "
        "tools.verify lists them; --allow-overlap measures all the same"
    )


@pytest.mark.parametrize(("first", "code"), [(0, 3), (4, 3), (6, 0)])
def test_segments_of_one_video(first, code, tiny_data, tmp_path):
    """Frames 0 to 5 train; a test video of its own that begins later has none of them."""
    manifest, paths = Manifest.read(tiny_data), []
    for start in (0, first):
        rows = [replace(video, first_frame=start, frames=6) for video in manifest]
        paths.append(tmp_path / f"from{start}{len(paths)}.parquet")
        write_manifest(paths[-1], rows, classes=manifest.classes, options={})
    args = arguments(*paths, tmp_path / "out")
    args.remove("--allow-overlap")
    assert evaluate.main(args) == code


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
        ("retrieval", ["eval.layer=conv5"],
         "error: eval.layer: no stage 'conv5' · expected one of stem, layer1, layer2, layer3, "
         "layer4, or nothing for the feature that the network ends with"),
        ("retrieval", ["eval.layer=layer3"],
         "error: eval.layer=layer3: a baseline without a network has no stages"),
        ("finetune", ["eval.layer=layer3", *SGD[1:]],
         "error: eval.layer=layer3 has no effect where all layers are trained"),
        ("finetune", ["eval.test=windows", *SGD[1:]],
         "error: --clips has no effect with eval.test=windows · it is the number of uniform clips "
         "of a video"),
        ("knn", ["eval.train=random", "eval.test=windows"],
         "error: --clips has no effect with eval.train=random and eval.test=windows · it is the "
         "number of uniform clips of a video"),
        ("finetune", SGD[1:], "error: pixels is no network that could be fine-tuned"),
        ("svm", ["eval.c=0"], "error: eval.c: expected more than 0, got 0.0"),
        ("semi", ["eval.per_cent=[0]"],
         "error: eval.per_cent: expected numbers above 0 and up to 100, got [0.0]"),
        ("semi", ["eval.epochs=3"],
         "error: eval.epochs has no effect without eval.solver=sgd or eval.solver=finetune"),
        ("semi", [*SGD, "eval.freeze_norm=true"],
         "error: eval.freeze_norm has no effect without eval.solver=finetune"),
        ("semi", [*SGD, "eval.per_cent=[10,100]"],
         "error: eval.batch_size: expected 1 to 2, the training videos, got 4"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(protocol, options, line, tiny_data, tmp_path, capsys):
    args = arguments(tiny_data, tiny_data, tmp_path, *options, protocol=protocol)
    assert refused(capsys, args, 2) == line


def test_a_number_of_clips_that_the_options_make_useless(tiny_data, tmp_path, capsys):
    """A preset's number is no choice of the user's; one beside it is."""
    more = ["eval.train=random", "eval.test=windows", "eval.clips=3"]
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path, *more, clips=None), 2)
    assert line.startswith("error: eval.clips has no effect with eval.train=random and eval.test=w")


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
    preset = str(ROOT / "configs" / "eval" / "cvrl_linear.yaml")
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
        (["features", "-o", "x", "--checkpoint", "random", "--test", "a", "--test", "b"],
         "once for each split; features takes one"),
        (["retrieval", "--results", "a", "b", "-o", "x"], "--results is of fuse, not of retrieval"),
        (["knn", "--of", "linear", "-o", "x"], "--of is of fuse, not of knn"),
        (["fuse", "--results", "a", "b", "-o", "x", "--clips", "3"],
         "--clips has no effect with --results, which joins what is measured already"),
        (["fuse", "--results", "a", "b", "-o", "x", "eval.clips=3"], "eval.clips=3 has no effect"),
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
    assert "linear's is optim.weight_decay=0.0" in " ".join(said.split())
    for word in ("eval.KEY", "center=false", "temperature=0.07", "optim.lr=0.1", "format=npz|npy",
                 "solver=lbfgs|sgd"):  # fmt: skip
        assert word in said
