"""Annotation files as the data sets have them: names, spellings and counts of the real lists."""

from __future__ import annotations

from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"

UCF101 = (FIXTURES / "ucf101_classes.txt").read_text().split()
UCF101_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
UCF101_TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}

HMDB51 = (FIXTURES / "hmdb51_classes.txt").read_text().split()
HMDB51_VIDEOS, HMDB51_TRAIN, HMDB51_TEST = 6766, 70, 30


def ucf101_names(fold: int, split: str) -> list[str]:
    """CLASS/v_CLASS_gNN_cNN.avi of the official number; no two splits share a group of clips."""
    test = UCF101_TEST_GROUPS[fold]
    groups = [g for g in range(1, 26) if (g in test) == (split == "test")]
    names = []
    for n in range(UCF101_COUNTS[fold][split == "test"]):
        label, nth = UCF101[n % len(UCF101)], n // len(UCF101)
        group, clip = groups[nth % len(groups)], 1 + nth // len(groups)
        spelled = "HandStandPushups" if label == "HandstandPushups" else label
        names.append(f"{label}/v_{spelled}_g{group:02d}_c{clip:02d}.avi")
    return sorted(names)


def write_ucf101(folder: Path, *, end: str = "\r\n", folds=(1, 2, 3)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    index = [f"{n} {name}" for n, name in enumerate(UCF101, start=1)]
    _write(folder / "classInd.txt", index, end)
    for fold in folds:
        train = [f"{n} {UCF101.index(n.split('/')[0]) + 1}" for n in ucf101_names(fold, "train")]
        _write(folder / f"trainlist0{fold}.txt", train, end)
        _write(folder / f"testlist0{fold}.txt", ucf101_names(fold, "test"), end)
    return folder


def hmdb51_name(label: str, n: int) -> str:
    """Names with what no shell should see; some start with another class's name."""
    odd = ["Zorro_(Funny_Fight_Scene)", "#20_Rhythm_&", "prelinger!", "[1];x=@y", "it's"][n % 5]
    return f"{odd}_{label}_f_cm_np1_ba_bad_{n}.avi"


def write_hmdb51(folder: Path) -> Path:
    """All 6,766 videos in each fold: 70 train, 30 test of every class, the others unused."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, label in enumerate(HMDB51):
        videos = HMDB51_VIDEOS // len(HMDB51) + (at < HMDB51_VIDEOS % len(HMDB51))
        for fold in (1, 2, 3):
            codes = [(n + 37 * fold) % videos for n in range(videos)]
            lines = [
                f"{hmdb51_name(label, n)} {1 if c < HMDB51_TRAIN else 2 if c < 100 else 0} "
                for n, c in enumerate(codes)
            ]
            _write(folder / f"{label}_test_split{fold}.txt", lines, "\n")
    return folder


def _write(path: Path, lines: list[str], end: str) -> None:
    path.write_bytes("".join(line + end for line in lines).encode())


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root
