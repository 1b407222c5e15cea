"""Results of two encoders joined, several splits, and two results beside each other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from models import build_backbone, build_method
from pipeline.flow import operator
from pipeline.manifest import Manifest, write_manifest
from tests.conftest import damage
from tests.test_evaluate import arguments, refused, result
from training import checkpoint, config, features
from training.protocols.outcome import interval_of_mean

# Two streams together


@pytest.fixture(scope="module")
def both(tiny_data, tmp_path_factory) -> list[Path]:
    """Results of two encoders in two folders, as of two streams."""
    folder = tmp_path_factory.mktemp("two")
    for source in ("pixels", "random"):
        for protocol in ("retrieval", "linear"):
            args = arguments(tiny_data, tiny_data, folder / source, "clip.frames=2",
                             protocol=protocol, source=source)  # fmt: skip
            assert evaluate.main(args) == 0
    return [folder / "pixels", folder / "random"]


@pytest.fixture
def two(both, tmp_path) -> list[Path]:
    """A copy of them, for one test."""
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in both]


def fused(folders: list[Path], output: Path, *more: str) -> list[str]:
    return ["fuse", "--results", *map(str, folders), "-o", str(output), *more]


@pytest.mark.parametrize("center", [False, True])
def test_similarities_are_summed(center, two, tiny_data, tmp_path):
    """The features that are kept beside the result give the same order."""
    for folder in two if center else []:
        args = arguments(tiny_data, tiny_data, folder, "clip.frames=2", "eval.center=true",
                         source=folder.name)  # fmt: skip
        assert evaluate.main(args) == 0
    assert evaluate.main(fused(two, tmp_path / "both")) == 0
    parts = {
        part: [features.read(folder / f"features_{part}.npz")[1] for folder in two]
        for part in ("train", "test")
    }
    pairs = zip(parts["test"], parts["train"], strict=True)
    similarity = sum(cosines(a, center=center) @ cosines(b, center=center).T for a, b in pairs)
    label = parts["train"][0].label.numpy()
    best = (-similarity).argsort(axis=1, kind="stable")
    right = label[best] == parts["test"][0].label.numpy()[:, None]
    content = result(tmp_path / "both")
    for k in (1, 5, 10):
        assert content["result"][f"R@{k}"] == right[:, :k].any(1).mean()
    assert content["protocol"] == "retrieval" and len(content["joined"]) == 2
    kept = {part: features.read(tmp_path / "both" / f"features_{part}.npz") for part in parts}
    assert {part: digest for part, (digest, _) in kept.items()} == {
        part: content[part]["features"] for part in parts
    }
    test, train = (kept[part][1].feature.double().numpy() for part in ("test", "train"))
    np.testing.assert_allclose(2 * test @ train.T, similarity, atol=1e-6)


def cosines(found: features.Features, *, center: bool) -> np.ndarray:
    """Vectors of unit length in float64, less their mean before where that is asked for."""
    vector = found.feature.double().numpy() * found.length.double().numpy()[:, None]
    vector = vector - vector.mean(0) * center
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


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


def test_results_that_differ_cannot_be_joined(two, tiny_data, own_data, tmp_path, capsys):
    other = tmp_path / "other"
    assert evaluate.main(arguments(tiny_data, tiny_data, other, "eval.center=true")) == 0
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


def test_stale_files_are_not_joined(two, tiny_data, tmp_path, capsys):
    assert evaluate.main(arguments(tiny_data, tiny_data, two[0], "clip.stride=2")) == 0
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


def test_what_is_made_of_several_results_is_not_joined(two, tmp_path, capsys):
    assert evaluate.main(fused(two, tmp_path / "both")) == 0
    assert result(tmp_path / "both")["joined"][0]["options"]["clips"] == 2
    line = refused(capsys, fused([tmp_path / "both", two[1]], tmp_path / "three"), 2)
    assert line == (
        f"error: a joined result is not joined with another · {tmp_path / 'both'} · give the "
        "folder of a single one"
    )
    path = two[0] / "retrieval.json"
    path.write_text(json.dumps(result(two[0]) | {"splits": []}))
    line = refused(capsys, fused(two, tmp_path / "three"), 2)
    assert line.startswith(f"error: a mean over splits is not joined with another · {two[0]}")


VICC = """
clip: {frames: 4, stride: 2}
augment: {size: 32}
flow: {tvl1: {scales: 1, warps: 1, iterations: 2}}
backbone: {name: r3d_18, width: 4}
data: {workers: 0, prefetch_batches: 1}
method: {name: vicc, dim: 8, prototypes: [4], queue_size: 0, batch_norm: plain}
run: {precision: fp32, device: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def two_streams(tmp_path_factory) -> Path:
    """A checkpoint of ViCC that was trained on flow by TV-L1, as on a GPU."""
    folder = tmp_path_factory.mktemp("vicc")
    (folder / "vicc.yaml").write_text(VICC)
    recipe = config.load(folder / "vicc.yaml", [])
    torch.manual_seed(3)
    backbone = build_backbone(**recipe.backbone.network())
    method = build_method("vicc", backbone, frames=4, size=32, **recipe.method_options())
    for stream in method.streams.values():
        stream.steps += 1
    state = checkpoint.Checkpoint(
        step=1, stage="", method=method.state_dict(), optimizer={}, config=recipe.plain(),
        classes=["even", "odd"], data_fingerprint="", versions={},
        flow={"operator": "tvl1", "encoding": "raw"},
    )  # fmt: skip
    return checkpoint.save(folder / "checkpoints", state, keep=2)


def test_both_streams_of_one_checkpoint(two_streams, tiny_data, tmp_path):
    args = arguments(tiny_data, tiny_data, tmp_path, "eval.test=windows", "flow.operator=tvl1",
                     protocol="fuse", source=str(two_streams))  # fmt: skip
    assert evaluate.main(args) == 0
    rgb, flow, both = (result(tmp_path / name) for name in ("rgb", "flow", "."))
    assert (rgb["views"]["stream"], flow["views"]["stream"]) == ("rgb", "flow")
    assert flow["views"]["flow"] == {"operator": "tvl1", "encoding": "raw"}
    assert [part["views"]["stream"] for part in both["joined"]] == ["rgb", "flow"]
    own = [
        features.read(tmp_path / name / "features_test.npz")[1].feature for name in ("rgb", "flow")
    ]
    assert not torch.allclose(*own, atol=1e-2)
    assert flow["test"]["sampling"] == "windows" and both["test"]["evaluated"] == 10
    assert (both["test"]["sampling"], both["test"]["step"]) == ("windows", flow["test"]["step"])
    assert (both["train"]["sampling"], both["train"]["clips"]) == ("uniform", 2)
    for name in ("flow", "."):  # two streams are of the protocol of one
        paths = [str(tmp_path / one / "retrieval.json") for one in ("rgb", name)]
        assert evaluate.main(["--compare", *paths]) == 0


def test_both_streams_over_two_splits(two_streams, tiny_data, tmp_path):
    manifest, paths = Manifest.read(tiny_data), []
    for first in (0, 2):
        paths.append(tmp_path / f"from{first}.parquet")
        rows = [manifest[first], manifest[first + 1]]
        write_manifest(paths[-1], rows, classes=manifest.classes, options={})
    args = arguments(paths[0], paths[0], tmp_path / "out", "--train", paths[1], "--test", paths[1],
                     "flow.operator=dis", protocol="fuse", source=str(two_streams),
                     clips=1)  # fmt: skip
    assert evaluate.main(args) == 0
    mean = result(tmp_path / "out")
    own = [result(tmp_path / "out" / f"split{n}") for n in (1, 2)]
    assert all(
        [part["views"]["stream"] for part in one["joined"]] == ["rgb", "flow"] for one in own
    )
    assert mean["splits"] == [one["result"] for one in own]
    assert mean["result"]["R@1"] == 1.0 and len(mean["joined"]) == 2
    path = str(tmp_path / "out" / "retrieval.json")
    assert evaluate.main(["--compare", path, path]) == 0


def test_both_streams_of_an_untrained_network(two_streams, tiny_data, tmp_path):
    """As tools.methods joins them, for the row that learning is measured against."""
    recipe, folders = two_streams.parents[1] / "vicc.yaml", []
    for stream in ("rgb", "flow"):
        folders.append(tmp_path / stream)
        more = ["--recipe", recipe, f"method.stream={stream}", "flow.operator=dis"]
        args = arguments(tiny_data, tiny_data, folders[-1], *more, source="random")
        assert evaluate.main(args) == 0
    assert evaluate.main(fused(folders, tmp_path / "both")) == 0
    both = result(tmp_path / "both")
    assert both["checkpoint"] == "random + random" and both["result"]["R@1"] == 1.0
    assert [view["stream"] for view in both["views"]] == ["rgb", "flow"]


def test_a_checkpoint_without_an_encoder(two_streams, tiny_data, tmp_path, capsys):
    state = checkpoint.load(two_streams)
    state.method = {name: t for name, t in state.method.items() if "backbone" not in name}
    path = checkpoint.save(tmp_path, state, keep=1)
    line = refused(capsys, arguments(tiny_data, tiny_data, tmp_path / "out", source=str(path)), 4)
    assert line.startswith(f"error: the weights do not fit · {path} · ")
    assert "Missing key(s)" in line and "backbone" in line


def test_features_are_not_those_of_another_flow_operator(two_streams, tiny_data, tmp_path, capsys,
                                                         monkeypatch):  # fmt: skip
    """`auto` comes to another one on another machine."""
    args = arguments(tiny_data, tiny_data, tmp_path, "method.stream=flow", source=str(two_streams))
    monkeypatch.setattr(operator, "_automatic", lambda on_gpu: ("tvl1", "as on a GPU"))
    assert evaluate.main(args) == 0
    by_tvl1 = features.read(tmp_path / "features_test.npz")
    monkeypatch.undo()
    assert refused(capsys, args, 4) == (
        "error: the checkpoint was trained on flow by tvl1, here it would be by dis · "
        f"{two_streams} · set flow.operator=tvl1, or flow.operator=dis to measure it so"
    )
    assert evaluate.main([*args, "flow.operator=tvl1"]) == 0
    assert features.read(tmp_path / "features_test.npz")[0] == by_tvl1[0]
    assert evaluate.main([*args, "flow.operator=dis"]) == 0
    assert result(tmp_path)["views"]["flow"]["operator"] == "dis"
    digest, by_dis = features.read(tmp_path / "features_test.npz")
    assert digest != by_tvl1[0] and not torch.equal(by_dis.feature, by_tvl1[1].feature)


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
    counts = [(round(share * 6), 6) for share in own]
    assert mean["intervals_95"] == {"top-1": interval_of_mean(counts)}
    low, high = (100 * end for end in mean["intervals_95"]["top-1"])
    told = capsys.readouterr().out.splitlines()[-2]
    assert told.startswith("knn of pixels, mean of 2 splits: top-1")
    assert told.endswith(f"95 % interval {low:.1f} to {high:.1f})")
    path = str(tmp_path / "out" / "knn.json")
    assert evaluate.main(["--compare", path, path]) == 0


def test_data_sets_of_other_classes_have_no_mean(tiny_data, tmp_path, capsys):
    other = tmp_path / "other.parquet"
    write_manifest(other, list(Manifest.read(tiny_data)), classes=["red", "blue"], options={})
    args = arguments(tiny_data, tiny_data, tmp_path / "out", "--train", other, "--test", other)
    assert refused(capsys, args, 3) == (
        "error: the splits have other classes, so that their mean says nothing · "
        f"{tiny_data} and {other} · measure each for itself"
    )


def test_the_mean_is_of_the_measures_that_all_splits_have(tiny_data, tmp_path):
    manifest, few = Manifest.read(tiny_data), tmp_path / "few.parquet"
    write_manifest(few, [manifest[n] for n in range(6)], classes=manifest.classes, options={})
    for first, second in ((tiny_data, few), (few, tiny_data)):
        args = arguments(first, tiny_data, tmp_path / "out", "--train", str(second),
                         "--test", str(tiny_data))  # fmt: skip
        assert evaluate.main(args) == 0
        assert list(result(tmp_path / "out")["result"]) == ["R@1", "R@5"]


def test_two_results_beside_each_other(two, capsys):
    capsys.readouterr()
    paths = [str(folder / "linear.json") for folder in two]
    assert evaluate.main(["--compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A: pixels" and lines[1] == "B: random"
    shares = [100 * result(folder, "linear")["result"]["top-1"] for folder in two]
    assert lines[3].split()[0] == "top-1" and lines[3].endswith(f"{shares[1] - shares[0]:+.1f}")
    assert lines[-1].split() == ["test", "videos", "10/10", "10/10"]


def test_results_of_other_protocols_are_not_compared(two, tiny_data, tmp_path, capsys):
    other, more = tmp_path / "other", ["clip.stride=2", "eval.clips=3"]
    args = arguments(tiny_data, tiny_data, other, *more, protocol="linear", source="random")
    assert evaluate.main(args) == 0
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
