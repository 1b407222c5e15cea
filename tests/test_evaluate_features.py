"""Features for other programs, as a user asks for them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import evaluate
from pipeline.manifest import Manifest, write_manifest
from tests.test_evaluate import SMALL, arguments, refused
from training import features
from training.protocols import export


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
    rows = [replace(video, label=-1) for video in manifest]
    write_manifest(plain, rows, classes=[], options={})
    command = ["features", "--checkpoint", "pixels", "--recipe", SMALL, "--test", str(plain)]
    command += ["-o", str(tmp_path / "out"), "eval.of=clip", "--clips", "3"]
    assert evaluate.main(command) == 0
    with np.load(tmp_path / "out" / "test.npz") as stored:
        assert stored["feature"].shape[0] == 30 and stored["row"].tolist()[:4] == [0, 0, 0, 1]
        assert stored["start_frame"].tolist()[:3] == [0, 2, 5]  # 12 frames, clips span 7


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


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({0: "../../evil"}, "the key '../../evil' makes no file name"),
        ({3: "/etc/evil"}, "the key '/etc/evil' makes no file name"),
        ({3: "x" * 300}, f"the key {'x' * 80!r} makes no file name"),
        ({0: "a/b", 7: "a//b"}, "the keys 'a/b' and 'a//b' make the same file name"),
    ],
)
def test_keys_that_make_no_files(keys, said, tiny_data, tmp_path, capsys, monkeypatch):
    """Found before anything is decoded; formats of one file for all do not mind."""
    manifest = Manifest.read(tiny_data)
    rows = [replace(video, key=keys.get(row, video.key)) for row, video in enumerate(manifest)]
    path = tmp_path / "own.parquet"
    write_manifest(path, rows, classes=manifest.classes, options={})
    command = ["features", "--checkpoint", "pixels", "--recipe", SMALL, "--test", str(path)]
    command += ["-o", str(tmp_path / "out"), "--clips", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(export, "extract_clips", None)
        line = refused(capsys, [*command, "eval.format=per_video"], 3)
    cure = f" · {path} · index the videos again, or take eval.format=npz"
    assert line == f"error: {said}{cure}"
    assert evaluate.main([*command, "eval.format=npz"]) == 0


def test_a_key_with_slashes_is_a_folder_for_each(tiny_data, tmp_path):
    manifest = Manifest.read(tiny_data)
    rows = [replace(video, key=f"{video.label}/{video.key}") for video in manifest]
    path = tmp_path / "own.parquet"
    write_manifest(path, rows, classes=manifest.classes, options={})
    command = ["features", "--checkpoint", "pixels", "--recipe", SMALL, "--test", str(path)]
    assert evaluate.main([*command, "-o", str(tmp_path), "eval.format=per_video"]) == 0
    assert np.load(tmp_path / "test" / "1" / "v3.npy").ndim == 2
