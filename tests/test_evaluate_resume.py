"""evaluate.py killed and started again, and in two processes: the same files in every bit."""

import io
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

import evaluate
from tests import faults, runs
from tests.conftest import damage
from tests.test_evaluate import arguments
from tests.training.protocols.feature_sets import random_features
from training import features, parts

PROGRAM = {"program": "evaluate"}
GROUPS = ["--batch-size", "3"]
# Small steps on views of 32 pixels: with larger ones rounding errors grow 40-fold a step.
FIT = ["eval.epochs=3", "eval.batch_size=4", "eval.optim.lr=1e-4", "eval.dropout=0.5",
       "augment.size=32"]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; parts and what is half written must be gone."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def moved(folder: Path) -> dict[str, bytes]:
    """`contents`, and the folder is free for the same command again: a result names it."""
    found = contents(folder)
    folder.rename(folder.with_name(f"{folder.name}_{len(list(folder.parent.iterdir()))}"))
    return found


@pytest.fixture
def command(own_data, tmp_path):
    """The arguments of a protocol on videos of its own."""

    def build(protocol: str, *more: str) -> list[str]:
        return arguments(own_data, own_data, tmp_path / "out", *GROUPS, *more,
                         protocol=protocol, source="random")  # fmt: skip

    return build


def test_killed_while_features_are_made(command, own_data, tmp_path, monkeypatch):
    """Alone, or one of two processes: what was finished is not looked at again. Its videos are gone
    when the program goes on.
    """
    args, folder = command("retrieval", "eval.test=windows"), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *args])  # which the result tells
    assert evaluate.main(args) == 0
    whole = moved(folder)
    ranks = runs.run_ranks(*args, **PROGRAM)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output
    assert moved(folder) == whole

    killed = faults.OnRank(1, faults.KillAfterPart(1))
    assert runs.run_ranks(*args, **PROGRAM, faults=[killed])[1].code == -9
    assert (folder / "features_train.parts" / "from_00000003.npz").exists()
    assert runs.run(*args, **PROGRAM, faults=[faults.KillAfterPart(5)]).code == -9
    # Windows: of the first two videos six, of which 0 has four groups.
    assert {"features_train.npz", "features_test.parts"} <= {p.name for p in folder.iterdir()}
    assert len(list((folder / "features_test.parts").iterdir())) >= 2
    damage(own_data, 0)
    assert evaluate.main(args) == 0
    assert contents(folder) == whole


def test_killed_while_a_classifier_is_trained(command, tmp_path, monkeypatch):
    """By two processes, whose network is that of one that nothing disturbed: batch norm and dropout
    are of the whole batch. Ten videos in eight steps.
    """
    args, folder = command("finetune", *FIT, "eval.mean_of=logits"), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *args])
    assert evaluate.main(args) == 0
    alone = moved(folder)
    killed = runs.run_ranks(*args, **PROGRAM, faults=[faults.KillAfterEpoch(2)])
    assert -9 in [rank.code for rank in killed], killed[0].output
    ranks = runs.run_ranks(*args, **PROGRAM)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output
    steps = [line.split()[1] for line in ranks[0].output.splitlines() if line[:5] == "step "]
    assert steps == ["6/8", "7/8", "8/8"]
    found = contents(folder)
    assert found.keys() == alone.keys() and found["finetune.json"] == alone["finetune.json"]
    own, expected = trained(found), trained(alone)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def trained(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """Parameters and running statistics, and what the test videos are answered."""
    stored = np.load(io.BytesIO(files["finetune_outputs.npz"]))
    logits = torch.from_numpy(stored["feature"] * stored["length"][:, None])
    state = torch.load(io.BytesIO(files["finetune_training.pt"]), weights_only=True)
    return state["model"] | {"logits": logits}


@pytest.fixture
def meanwhile(monkeypatch):
    """Does something in a thread, once, while the first features are written under another name;
    returns what came of it.
    """

    def watch(act) -> list:
        original, found = np.savez, []

        def savez(file, **fields):
            original(file, **fields)
            if not found:
                found.append(None)
                thread = Thread(target=lambda: found.append(act()))
                thread.start()
                thread.join()

        monkeypatch.setattr(np, "savez", savez)
        return found

    return watch


def test_two_evaluations_in_one_folder(command, tmp_path, monkeypatch, meanwhile):
    """The second one is done, and removes all parts, while the first one writes its first."""
    args, folder = command("retrieval"), tmp_path / "out"
    assert evaluate.main(args) == 0
    whole = moved(folder)
    monkeypatch.setattr(parts, "PART_SECONDS", 0.0)
    found = meanwhile(lambda: (evaluate.main(args), [*folder.glob("*.parts")]))
    assert evaluate.main(args) == 0
    assert found[1] == (0, []) and contents(folder) == whole


def test_features_that_two_write_at_once(tmp_path, meanwhile):
    path, one, other = tmp_path / "x.npz", random_features(0, 5, 2), random_features(1, 5, 2)
    found = meanwhile(lambda: features.keep(path, {"of": "other"}, other))
    features.keep(path, {"of": "one"}, one)
    assert torch.equal(features.kept(path, {"of": "one"}).feature, one.feature)
    assert len(found) == 2 and [p.name for p in tmp_path.iterdir()] == [path.name]
