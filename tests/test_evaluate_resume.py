"""evaluate.py killed and started again, and in two processes: the same files in every bit."""

from pathlib import Path

import pytest

from tests import faults, runs
from tests.conftest import damage
from tests.test_evaluate import arguments

PROGRAM = {"program": "evaluate"}
GROUPS = ["--batch-size", "3"]
FIT = ["eval.epochs=3", "eval.batch_size=4", "eval.optim.lr=0.01", "eval.dropout=0.5"]


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


def test_killed_while_features_are_made(command, own_data, tmp_path):
    """Alone, or one of two processes: what was finished is not looked at again. Its videos are gone
    when the program goes on.
    """
    args, folder = command("retrieval", "eval.test=windows"), tmp_path / "out"
    runs.finished(*args, **PROGRAM)
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
    runs.finished(*args, **PROGRAM)
    assert contents(folder) == whole


def test_killed_while_a_classifier_is_trained(command, tmp_path):
    """By two processes, each with running statistics of its own; ten videos in eight steps."""
    args, folder = command("finetune", *FIT, "eval.mean_of=logits"), tmp_path / "out"
    ranks = runs.run_ranks(*args, **PROGRAM)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output
    whole = moved(folder)
    assert {"finetune.json", "finetune_training.pt", "finetune_outputs.npz"} <= whole.keys()
    killed = runs.run_ranks(*args, **PROGRAM, faults=[faults.KillAfterEpoch(2)])
    assert -9 in [rank.code for rank in killed]
    ranks = runs.run_ranks(*args, **PROGRAM)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output
    assert contents(folder) == whole
    steps = [line.split()[1] for line in ranks[0].output.splitlines() if line[:5] == "step "]
    assert steps == ["6/8", "7/8", "8/8"]
