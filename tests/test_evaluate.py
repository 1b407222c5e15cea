import json
import os
from pathlib import Path

import av
import pytest
import torch

import evaluate
from pipeline.manifest import Manifest, write_manifest
from tests import runs
from tests.conftest import make_data_set
from training import config, features
from training.checkpoint import files
from training.distributed import Process
from training.protocols import inputs, job, origin

ROOT = Path(evaluate.__file__).parent
SMALL = str(ROOT / "tests" / "fixtures" / "small.yaml")


def arguments(train, test, output, *more, protocol="retrieval", source="pixels", clips=2):
    recipe = ["--recipe", SMALL] if source in inputs.BASELINES else []
    command = [protocol, "--checkpoint", source, *recipe, "--train", train, "--test", test]
    command += ["--allow-overlap", "-o", output, *(["--clips", clips] if clips else [])]
    # A checkpoint's recipe has worker processes; the features are the same without.
    command += [] if source in inputs.BASELINES else ["data.workers=0"]
    return [str(part) for part in [*command, *more]]


def result(folder: Path, protocol="retrieval") -> dict:
    return json.loads((folder / f"{protocol}.json").read_text())


@pytest.fixture
def checkpoint(whole) -> Path:
    """The last checkpoint of a training, of the stage that has a generator beside the encoder."""
    return files(whole / "checkpoints")[-1]


def refused(capsys, args: list[str], code: int) -> str:
    """The one line that evaluate.py ends with."""
    assert evaluate.main(args) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


# What is measured


@pytest.mark.parametrize("source", ["random", "checkpoint"])
def test_the_command(source, request, tiny_data, tmp_path, capsys):
    """Once by a process of its own: denominators, classes, protocol and hash are
    in the file.
    """
    path = str(request.getfixturevalue("checkpoint")) if source == "checkpoint" else source
    args = arguments(tiny_data, tiny_data, tmp_path, source=path)
    if source == "checkpoint":
        done = runs.run(*args, program="evaluate")
        code, told = done.code, done.output
    else:
        code, told = evaluate.main(args), capsys.readouterr().out
    assert code == 0, told
    assert told.splitlines()[:2] == ["train: evaluated 10/10", "test: evaluated 10/10"]
    # Each video finds itself.
    assert "R@1 100.0 % (chance 50.0; 95 % interval 100.0 to 100.0)" in told
    content = result(tmp_path)
    assert content["protocol"] == "retrieval"
    assert content["classes"] == ["even", "odd"]
    assert content["views"] == {
        "frames": 4, "stride": 2, "size": 16, "crops": 1, "crop": "central square",
        "mean_of": "features", "eval_scale": 1.0, "stream": "rgb",
    }  # fmt: skip
    for part in ("train", "test"):
        assert content[part] == {
            "manifest": "tiny.parquet",
            "fingerprint": Manifest.read(tiny_data).fingerprint,
            "split": "",
            "evaluated": 10,
            "of": 10,
            "failed": [],
            "sampling": "uniform",
            "clips": 2,
            "features": features.read(tmp_path / f"features_{part}.npz")[0],
        }
    expected = "random"
    if source == "checkpoint":
        expected = Path(path + ".sha256").read_text().split()[0]
    assert content["checkpoint_sha256"] == expected


def test_the_same_again_is_the_same(checkpoint, tiny_data, tmp_path):
    seen, source = [], str(checkpoint)
    for folder in ("a", "b", "b"):  # afresh, afresh, from the features kept
        args = arguments(tiny_data, tiny_data, tmp_path / folder, protocol="linear", source=source)
        assert evaluate.main(args) == 0
        seen.append(result(tmp_path / folder, "linear"))
    assert seen[0] == seen[1] == seen[2]
    assert list(seen[0]["result"]) == ["top-1", "weight_decay"]


def test_features_of_a_checkpoint_are_those_of_its_own_weights(checkpoint, tiny_data, tmp_path):
    for source in (str(checkpoint), "random"):
        folder = tmp_path / Path(source).stem
        assert evaluate.main(arguments(tiny_data, tiny_data, folder, source=source)) == 0
    trained, random = (
        features.read(tmp_path / name / "features_test.npz")[1].feature
        for name in (checkpoint.stem, "random")
    )
    assert trained.shape == random.shape == (10, 32)  # r3d_18 of width 4: 8 x 4 features
    assert torch.allclose(trained.norm(dim=1), torch.ones(10))
    assert not torch.allclose(trained, random, atol=1e-3)


@pytest.mark.parametrize("clip", [["augment.size=24"], ["clip.frames=1", "clip.stride=1"]])
def test_clips_may_be_others_than_those_of_the_training(clip, checkpoint, tiny_data, tmp_path):
    """The generator is fitted to the clips it was trained on, the encoder is not."""
    args = arguments(tiny_data, tiny_data, tmp_path, *clip, source=str(checkpoint))
    assert evaluate.main(args) == 0
    assert result(tmp_path)["test"]["evaluated"] == 10


def test_crops_are_named_as_they_were_taken(tiny_data, tmp_path):
    overrides = ["augment.eval_crops=3", "augment.eval_scale=0.5"]
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path, *overrides)) == 0
    views = result(tmp_path)["views"]
    assert (views["crop"], views["eval_scale"]) == ("three squares along the long side", 0.5)


@pytest.mark.parametrize("source", ["random", "pixels"])
def test_videos_at_once_do_not_change_the_features(source, tiny_data, tmp_path, monkeypatch):
    asked, original = [], features.build_evaluation_loader

    def build(*args, data, **named):
        asked.append(data.batch_size)
        return original(*args, data=data, **named)

    monkeypatch.setattr(features, "build_evaluation_loader", build)
    kept = []
    for size in ("", "1", "7"):
        more = ["--batch-size", size] if size else []
        folder = tmp_path / f"of{size}"
        assert evaluate.main(arguments(tiny_data, tiny_data, folder, *more, source=source)) == 0
        kept.append(features.read(folder / "features_test.npz"))
    assert asked == [8, 8, 1, 1, 7, 7]
    for digest, found in kept[1:]:
        assert digest == kept[0][0]
        torch.testing.assert_close(found.feature, kept[0][1].feature)
        assert torch.equal(found.index, kept[0][1].index)


# Features that are kept


@pytest.fixture
def extractions(monkeypatch) -> list[str]:
    """Names of the manifests whose features were really made, not read from a file."""
    made: list[str] = []
    original = job.extract

    def extract(encoder, manifest, *rest, **named):
        made.append(manifest.path.name)
        return original(encoder, manifest, *rest, **named)

    monkeypatch.setattr(job, "extract", extract)
    return made


def test_features_are_made_once(extractions, tiny_data, tmp_path):
    for protocol in ("retrieval", "linear", "retrieval"):
        assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path, protocol=protocol)) == 0
    assert len(extractions) == 2


@pytest.mark.parametrize(
    "change",
    [["--clips", "3"], ["clip.stride=1"], ["augment.size=12"], ["--checkpoint", "random"],
     ["run.seed=1"]],
    ids=" ".join,
)  # fmt: skip
def test_features_are_made_anew_when_they_would_differ(change, extractions, tiny_data, tmp_path):
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path)) == 0
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path, *change)) == 0
    assert len(extractions) == 4


@pytest.mark.parametrize("what", ["libraries", "decoder", "device", "precision"])
def test_features_made_with_something_else_are_made_anew(
    what, extractions, tiny_data, tmp_path, monkeypatch
):
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path)) == 0
    now = job.made_with
    monkeypatch.setattr(job, "made_with", lambda *of: {**now(*of), what: "another"})
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path)) == 0
    assert len(extractions) == 4


def test_what_features_are_made_with(tiny_data):
    recipe, alone = config.load(SMALL, []), Process(0, 1, torch.device("cpu"))
    found = origin.made_with(Manifest.read(tiny_data), recipe, alone)
    assert found["libraries"]["av"] == av.__version__
    assert found["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert any(name.startswith("opencv") for name in found["libraries"])
    assert (found["decoder"], found["device"]) == ("ffmpeg", "cpu")


def test_a_damaged_file_of_features_is_made_anew(extractions, tiny_data, tmp_path, capsys):
    args = arguments(tiny_data, tiny_data, tmp_path)
    assert evaluate.main(args) == 0
    kept = (tmp_path / "features_train.npz").read_bytes()
    for content in (b"", b"garbage", kept[: len(kept) // 2]):
        (tmp_path / "features_train.npz").write_bytes(content)
        assert evaluate.main(args) == 0
        assert (tmp_path / "features_train.npz").read_bytes() == kept
    assert len(extractions) == 5


@pytest.mark.parametrize("change", ["eval.test=windows", "eval.test=random", "eval.size=12"])
def test_clips_of_one_set_make_its_features_anew(change, extractions, tiny_data, tmp_path):
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path)) == 0
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path, change)) == 0
    assert len(extractions) == (4 if change == "eval.size=12" else 3)
    assert evaluate.main(arguments(tiny_data, tiny_data, tmp_path, change)) == 0
    assert len(extractions) == (4 if change == "eval.size=12" else 3)


def test_a_changed_manifest_or_checkpoint_makes_them_anew(
    extractions, checkpoint, own_data, tmp_path
):
    first = files(checkpoint.parent)[-2]
    assert evaluate.main(arguments(own_data, own_data, tmp_path, source=str(checkpoint))) == 0
    assert evaluate.main(arguments(own_data, own_data, tmp_path, source=str(first))) == 0
    assert len(extractions) == 4
    manifest = Manifest.read(own_data)
    fewer = own_data.with_name("fewer.parquet")
    write_manifest(fewer, [manifest[n] for n in range(9)], classes=manifest.classes, options={})
    assert evaluate.main(arguments(own_data, fewer, tmp_path, source=str(first))) == 0
    assert extractions[4:] == ["fewer.parquet"]
    assert result(tmp_path)["test"]["of"] == 9


# Videos that do not decode


@pytest.fixture
def broken_test_set(tmp_path) -> tuple[Path, Path]:
    """A manifest whose video v3.mp4 broke after indexing, and the good bytes of that video."""
    folder = tmp_path / "broken"
    folder.mkdir()
    manifest = make_data_set(folder)
    good = folder.parent / "good.mp4"
    good.write_bytes((folder / "v3.mp4").read_bytes())
    (folder / "v3.mp4").write_bytes(b"no video at all")
    return manifest, good


def test_a_broken_video_is_counted_and_not_replaced(broken_test_set, tiny_data, tmp_path, capsys):
    broken, _ = broken_test_set
    args = arguments(tiny_data, broken, tmp_path / "out")
    assert evaluate.main(args) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "train: evaluated 10/10",
        f"test: evaluated 9/10, failed 1 ({broken.parent / 'v3.mp4'})",
    ]
    content = result(tmp_path / "out")["test"]
    assert (content["evaluated"], content["of"]) == (9, 10)
    (failed,) = content["failed"]
    assert (failed["path"], failed["index"]) == (str(broken.parent / "v3.mp4"), 3)
    assert failed["code"].startswith("E-") and failed["detail"]
    kept = features.read(tmp_path / "out" / "features_test.npz")[1]
    assert kept.index.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert kept.label.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 1]

    assert evaluate.main([*args, "--max-failed", "1"]) == 0
    assert "evaluated 9/10, failed 1" in capsys.readouterr().out


def test_a_mended_video_is_evaluated(broken_test_set, tiny_data, tmp_path, capsys):
    broken, good = broken_test_set
    args = arguments(tiny_data, broken, tmp_path / "out")
    assert evaluate.main(args) == 3
    os.utime(good, (0, 0))  # an old file put back keeps its old time
    good.replace(broken.parent / "v3.mp4")
    assert evaluate.main(args) == 0
    assert "test: evaluated 10/10\n" in capsys.readouterr().out


def test_no_video_decodes(tiny_data, own_data, tmp_path, capsys):
    for path in own_data.parent.glob("*.mp4"):
        path.unlink()
    line = refused(capsys, arguments(tiny_data, own_data, tmp_path / "out"), 3)
    assert line.startswith(f"error: none of 10 videos decodes · {own_data} · E-MISSING ")


# Commands that cannot work


def test_unlabelled_videos(tiny_data, tmp_path, capsys):
    plain = make_data_set(tmp_path, videos=2, labels=False)
    assert refused(capsys, arguments(tiny_data, plain, tmp_path / "out"), 3) == (
        f"error: evaluation needs labels, 2 of 2 videos have none · {plain} · index the class "
        "folders or a list with labels"
    )


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["odd", "even"], "0 only in train [], 0 only in test []"),
        (["even", "new"], "1 only in train ['odd'], 1 only in test ['new']"),
    ],
)
def test_other_classes(classes, said, tiny_data, tmp_path, capsys):
    videos = list(Manifest.read(tiny_data))
    other = tmp_path / "other.parquet"
    write_manifest(other, videos, classes=classes, options={})
    assert refused(capsys, arguments(tiny_data, other, tmp_path / "out"), 3) == (
        f"error: train and test have other classes or another order: {said} · {other} · index it "
        "again with --classes-from the training manifest"
    )


def test_missing_checkpoint(tiny_data, tmp_path, capsys):
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path, source="no/such.pt"), 4)
    assert line == "error: no such checkpoint · no/such.pt · No such file or directory"


@pytest.mark.parametrize("source", ["random", "pixels"])
def test_no_recipe(source, tiny_data, tmp_path, capsys):
    args = arguments(tiny_data, tiny_data, tmp_path, source=source)
    del args[args.index("--recipe") : args.index("--recipe") + 2]
    assert refused(capsys, args, 2) == (
        f"error: --checkpoint {source} needs --recipe: it says network and clip"
    )


def test_an_output_that_cannot_be_made(tiny_data, tmp_path, capsys, extractions):
    (tmp_path / "file").touch()
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path / "file" / "out"), 2)
    assert line == (
        f"error: cannot make the output folder · {tmp_path / 'file' / 'out'} · Not a directory · "
        "choose another with -o"
    )
    assert not extractions


def test_a_result_that_cannot_be_written(tiny_data, tmp_path, capsys):
    (tmp_path / "retrieval.json").mkdir()
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path), 2)
    assert line == (
        f"error: cannot read or write · {tmp_path / 'retrieval.json'} · Is a directory · mend it, "
        "or choose another folder with -o"
    )


def test_a_value_that_makes_no_sense_here(tiny_data, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("nvdec works here")
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path, "data.decoder=nvdec"), 2)
    assert line == (
        "error: data.decoder: nvdec needs a GPU, none is here; use auto or ffmpeg · --debug shows "
        "where"
    )


@pytest.mark.parametrize("option", ["--clips", "--batch-size"])
def test_a_count_must_be_a_number_above_0(option, tiny_data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(arguments(tiny_data, tiny_data, tmp_path, option, "0"))
    assert ended.value.code == 2
    assert "expected a whole number above 0, got '0'" in capsys.readouterr().err


def test_split_names_are_those_of_the_manifests(tiny_data, tmp_path, capsys):
    args = arguments(tiny_data, tiny_data, tmp_path, "--split", "train", "val")
    line = refused(capsys, args, 3)
    assert line == f"error: no videos of split 'train' · {tiny_data} · it has: (none)"
