"""What the layout promises: who imports whom, what is optional, how long things get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import names

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "models", "training", "tools")
PROGRAMS = ("train.py", "evaluate.py")

# Package -> packages and programs of this project that it must not import.
FORBIDDEN = {
    "pipeline": ("models", "training", "tools", "tests", "train", "evaluate"),
    "models": ("pipeline", "training", "tools", "tests", "train", "evaluate"),
    "training": ("tools", "tests", "train", "evaluate"),
    "tools": ("tests",),
    "train.py": ("tools", "tests", "evaluate"),
    "evaluate.py": ("tools", "tests", "train"),
}
# Library -> the only files that may import it.
ONLY_IN = {
    "triton": r".*_triton\.py|tools/doctor/libraries\.py",
    "av": r"pipeline/(cut|decode|needed|render|probe|container|scan)\.py"
    r"|pipeline/shards/(transcode|normalise|remux|encoded|shard)\.py"
    r"|tools/synth/.*\.py|tools/benchmark/(footage|rivals)\.py|tools/doctor/libraries\.py",
    "nvidia": r"pipeline/(graph|flow/nvof)\.py|tools/benchmark/readers\.py"
    r"|tools/doctor/libraries\.py",
    "cv2": r"pipeline/(render|flow/dis)\.py|tools/benchmark/(pictures|flow/rivals)\.py",
    "torchvision": r"never",
    "timm": r"never",
    "lightning": r"never",
}
FUNCTION_LINES, KERNEL_LINES, FILE_LINES = 60, 120, 400


def sources() -> list[Path]:
    """The program, without its tests."""
    inside = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [*(ROOT / name for name in PROGRAMS), *sorted(inside)]


def at(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{at(path)}:{node.lineno}: relative import"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part(path: Path) -> str:
    """The package of a file, or the program itself."""
    return path.relative_to(ROOT).parts[0]


def test_imports_run_one_way():
    wrong = [
        f"{at(path)}:{line}: {part(path)} must not import {module}"
        for path in sources()
        for line, module in imports(path)
        if module.split(".")[0] in FORBIDDEN[part(path)]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_method_imports_no_other():
    wrong = [
        f"{at(path)}:{line}: a method must not import {module}"
        for path in (ROOT / "models" / "methods").glob("[!_]*.py")
        for line, module in imports(path)
        if re.match(r"models\.methods\.[^_]", module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_files(library):
    wrong = [
        f"{at(path)}:{line}: {module} belongs in {ONLY_IN[library]}"
        for path in sources()
        for line, module in imports(path)
        if module.split(".")[0] == library and not re.fullmatch(ONLY_IN[library], at(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_above_see_something():
    """A rule about files that do not exist would hold for ever."""
    seen = {module.split(".")[0] for path in sources() for _, module in imports(path)}
    assert {"av", "nvidia", "pipeline", "models", "training"} <= seen


WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"nvidia", "triton"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import torch
for name in [n for n in sys.modules if n.split(".")[0] in {"nvidia", "triton"}]:
    del sys.modules[name]
sys.meta_path.insert(0, Missing())

def no_gpu(*_, **__):
    raise RuntimeError("no GPU here")

torch.cuda.is_available = lambda: False
torch.cuda.init = torch.cuda._lazy_init = torch.cuda.current_device = no_gpu
import pipeline, models
models.build_backbone("r3d_18", width=4)
for name in models.names():
    models.method_config(name)
print("imported")
"""


def test_imports_need_no_dali_triton_or_gpu():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "imported\n", done.stderr


TRAINS = (
    WITHOUT
    + """
import train
sys.exit(train.main(sys.argv[1:]))
"""
)


def test_a_cpu_trains_without_dali_and_triton(tiny_data):
    command = ["configs/smoke.yaml", f"data.train={tiny_data}", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, *command], cwd=ROOT, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "first batch read" in done.stdout


def test_every_method_has_a_recipe():
    recipes = [path.stem for path in (ROOT / "configs").glob("*.yaml")]
    missing = [name for name in names() if not any(stem.startswith(name) for stem in recipes)]
    assert not missing


# Length


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_of(node: ast.FunctionDef) -> int:
    return node.end_lineno - node.lineno + 1


def test_functions_and_files_stay_short():
    wrong = []
    for path in sources():
        count = path.read_text().count("\n")
        if count > FILE_LINES:
            wrong.append(f"{at(path)}: {count} lines, at most {FILE_LINES}")
        limit = KERNEL_LINES if path.name.endswith("_triton.py") else FUNCTION_LINES
        wrong += [
            f"{at(path)}:{node.lineno}: {node.name} has {lines_of(node)} lines, at most {limit}"
            for node in functions(path)
            if lines_of(node) > limit
        ]
    assert not wrong, "\n".join(wrong)


def test_the_trainer_is_one_page_and_knows_no_method():
    path = ROOT / "train.py"
    text = path.read_text()
    assert text.count("\n") <= 300
    (loop,) = (node for node in functions(path) if node.name == "train")
    assert lines_of(loop) <= 60
    code = "\n".join(ast.get_source_segment(text, node) for node in functions(path))
    assert not [name for name in names() if name in code.lower()]


# The repository


def tracked() -> list[Path]:
    """Files under version control; all sources where there is no git."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return sources()
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_file_knows_a_machine():
    """Paths of one computer in a file work on that computer only."""
    machine = re.compile(r"(?<![\w.])/(?:work|root|home)/\w")
    wrong = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{at(path)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if machine.search(line)
        ]
    assert not wrong, "\n".join(wrong)
