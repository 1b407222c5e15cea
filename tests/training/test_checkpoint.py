"""Checkpoints: complete or not there, safe to load, and never the last one lost."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.checksum import sha256
from training import checkpoint
from training.checkpoint import Checkpoint
from training.errors import CheckpointError


def state(step: int, *, size: int = 64) -> Checkpoint:
    """A small state whose tensors tell its step."""
    weight = nn.Parameter(torch.full((size,), float(step)))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(size)
    optimizer.step()
    return Checkpoint(
        step=step,
        stage="pretrain",
        method={"weight": weight.detach(), "steps": torch.tensor(step)},
        optimizer=optimizer.state_dict(),
        config={"optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "run": {"stages": {}}},
        classes=["a", "ä b"],
        data_fingerprint="f" * 64,
        versions={"torch": str(torch.__version__)},
    )


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    passed_over: list[str] = []
    return checkpoint.newest(folder, passed_over.append), passed_over


def test_what_is_saved_is_loaded(tmp_path):
    saved = state(3)
    path = checkpoint.save(tmp_path / "new" / "folder", saved, keep=2)
    assert path.name == "step_00000003.pt"
    loaded = checkpoint.load(path)
    for name, tensor in saved.method.items():
        assert torch.equal(loaded.method[name], tensor)
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"],
                       saved.optimizer["state"][0]["exp_avg"])  # fmt: skip
    for name in ("step", "stage", "config", "classes", "data_fingerprint", "versions", "world"):
        assert getattr(loaded, name) == getattr(saved, name)


def test_it_loads_with_weights_only_and_sha256sum_agrees(tmp_path):
    path = checkpoint.save(tmp_path, state(3), keep=2)
    assert torch.load(path, weights_only=True)["step"] == 3
    digest, name = (tmp_path / "step_00000003.pt.sha256").read_text().split()
    assert digest == sha256(path) and name == path.name


def test_saving_copies_no_tensor(tmp_path, monkeypatch):
    """On a GPU a copy of all weights could be the one that does not fit."""
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("copied"))
    checkpoint.save(tmp_path, state(3), keep=2)


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_the_newest_are_kept(tmp_path, keep):
    for step in range(1, 8):
        checkpoint.save(tmp_path, state(step), keep=keep)
        steps = list(range(max(1, step - keep + 1), step + 1))
        names = [f"step_{s:08d}.pt{suffix}" for s in steps for suffix in ("", ".sha256")]
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_steps_of_more_digits_are_newer(tmp_path):
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, state(step), keep=2)
    assert newest(tmp_path)[0].step == 100_000_000
    assert [checkpoint.step_of(p) for p in checkpoint.files(tmp_path)] == [99_999_999, 100_000_000]


def test_a_complete_checkpoint_exists_at_every_instant(tmp_path, monkeypatch):
    """Looked for after every change of the folder, in the state that a kill would leave."""
    looks, order = 0, []

    def watched(name: str):
        original = getattr(os, name)

        def call(*args, **kwargs):
            result = original(*args, **kwargs)
            order.append((name, str(args[0])))
            look()
            return result

        monkeypatch.setattr(os, name, call)

    def look() -> None:
        nonlocal looks
        found, passed_over = newest(tmp_path)
        assert found is not None and not passed_over, order[-5:]
        assert found.step >= saved - 1
        looks += 1

    checkpoint.save(tmp_path, state(1), keep=2)
    for name in ("replace", "unlink", "fsync", "truncate"):
        watched(name)
    for saved in range(2, 62):
        checkpoint.save(tmp_path, state(saved), keep=2)
    # hash and file: each synced, renamed, folder synced; then two old files removed.
    assert looks >= 60 * (2 * 3) + 58 * 2


def test_contents_reach_the_disk_before_their_name(tmp_path, monkeypatch):
    """So that a power cut cannot leave a name without its contents."""
    synced, events = set(), []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    def noting_replace(source, target) -> None:
        assert str(source) in synced, "renamed before it was synced"
        replace(source, target)
        synced.discard(str(tmp_path))
        events.append(Path(target).name)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    checkpoint.save(tmp_path, state(1), keep=2)
    assert events == ["step_00000001.pt.sha256", "step_00000001.pt"]
    assert str(tmp_path) in synced, "the rename itself is synced"


def test_later_damaged_files_do_not_push_out_good_ones(tmp_path):
    """After a fall-back to step 3, steps 4 to 6 are still there, damaged, while 4 is made anew."""
    for step in range(1, 7):
        checkpoint.save(tmp_path, state(step), keep=6)
        if step > 3:
            os.truncate(tmp_path / f"step_{step:08d}.pt", 10)
    assert newest(tmp_path)[0].step == 3
    for step in (4, 5, 6):
        checkpoint.save(tmp_path, state(step), keep=2)
        assert newest(tmp_path)[0].step == step


def test_a_killed_process_leaves_no_file_for_ever(tmp_path):
    (tmp_path / "step_00000001.pt.node.123.45.partial").write_bytes(b"half")
    checkpoint.save(tmp_path, state(2), keep=2)
    assert not list(tmp_path.glob("*.partial"))


def test_a_failed_save_leaves_no_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), keep=2)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, state(2), keep=2)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    checkpoint.save(tmp_path, state(1), keep=2)
    broken = state(2)
    broken.method["weight"][3] = value
    with pytest.raises(CheckpointError, match="error: weight is not finite at step 2 · the last"):
        checkpoint.save(tmp_path, broken, keep=2)
    assert newest(tmp_path)[0].step == 1


# Files that are no checkpoint


def test_no_folder_is_no_checkpoint(tmp_path):
    assert newest(tmp_path / "none") == (None, [])
    assert newest(tmp_path) == (None, [])


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "empty": lambda path: path.write_bytes(b""),
    "appended": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another": lambda path: path.write_bytes(path.with_name("step_00000001.pt").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_passed_over(tmp_path, damage):
    checkpoint.save(tmp_path, state(1), keep=2)
    path = checkpoint.save(tmp_path, state(2), keep=2)
    DAMAGES[damage](path)
    found, passed_over = newest(tmp_path)
    assert found.step == 1
    (line,) = passed_over
    assert line == (
        f"passed over: the checkpoint is damaged (sha256 differs) · {path} · use an earlier one"
    )


def test_any_flipped_bit_is_seen(tmp_path):
    path = checkpoint.save(tmp_path, state(2), keep=2)
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(50):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="sha256 differs"):
            checkpoint.load(path)


def test_a_file_without_its_hash_is_not_resumed_from(tmp_path):
    checkpoint.save(tmp_path, state(1), keep=2)
    path = checkpoint.save(tmp_path, state(2), keep=2)
    (tmp_path / f"{path.name}.sha256").unlink()
    found, (line,) = newest(tmp_path)
    assert found.step == 1 and "has no sha256 beside it" in line
    assert checkpoint.load(path).step == 2  # asked for by name, as after a download


def test_none_of_several_is_an_error(tmp_path):
    for step in (1, 2):
        os.truncate(checkpoint.save(tmp_path, state(step), keep=2), 5)
    with pytest.raises(CheckpointError, match=r"error: none of 2 checkpoints is whole · ") as error:
        newest(tmp_path)
    assert "restore one, or start anew with another run.dir" in str(error.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=f"error: no such checkpoint · {tmp_path}/none.pt"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="error: a folder, expected a checkpoint file"):
        checkpoint.load(tmp_path)


class Canary:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_checkpoint_cannot_run_code(tmp_path, how):
    canary, path = tmp_path / "canary", tmp_path / "step_00000001.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    elif how == "torch":
        torch.save(Canary(canary), path)
    else:
        saved = state(1)
        saved.config["evil"] = Canary(canary)
        checkpoint.save(tmp_path, saved, keep=2)
    with pytest.raises(CheckpointError, match="error: not a checkpoint that loads safely · ") as e:
        checkpoint.load(path)
    assert "\n" not in str(e.value)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the trap itself works"


def foreign(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FOREIGN = {
    "a tensor": foreign(torch.zeros(3)),
    "weights": foreign({"weight": torch.zeros(3)}),
    "another format": foreign({"format": 99, "step": 1}),
    "fields missing": foreign({"format": checkpoint.FORMAT, "step": 1}),
    "a list": foreign([1, 2]),
    "text": b"hello\n",
    "a zip": b"PK\x03\x04" + bytes(100),
    "zeros": bytes(1000),
    "nothing": b"",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(FOREIGN[content])
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    assert str(error.value).startswith("error: not a checkpoint ")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_damage_without_a_hash_is_one_line_or_a_checkpoint(tmp_path):
    """Whatever torch.load trips over becomes a CheckpointError."""
    good = checkpoint.save(tmp_path, state(2), keep=2).read_bytes()
    path, rng = tmp_path / "downloaded.pt", random.Random(1)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 3, 30))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bad[: rng.randrange(1, len(bad))] if rng.random() < 0.3 else bad)
        try:
            checkpoint.load(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_python_pickles_of_every_start_are_refused(tmp_path):
    path, rng = tmp_path / "x.pt", random.Random(2)
    good = pickle.dumps({"format": 1, "a": [1, 2.5, "x"]}, protocol=2)
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_torch_load_is_never_called_unsafely():
    root = Path(__file__).parents[2]
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if relative.parts[0] in {".venv", "tests"}:
            continue
        text = path.read_text()
        assert "weights_only=False" not in text, relative
        for at in (i for i in range(len(text)) if text.startswith("torch.load(", i)):
            assert "weights_only=True" in text[at : at + 200], relative
