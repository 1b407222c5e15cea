"""The doctor: real limits, really broken libraries, and never a crash of its own."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.doctor import __main__ as doctor
from tools.doctor import driver, libraries, machine
from tools.doctor.findings import LOW, OFF, OK, STOP, Finding, checked
from tools.doctor.limits import cpu_quota, memory_info, memory_limit
from tools.doctor.table import consequences, print_table

ROOT = Path(doctor.__file__).parents[2]
LOOK = (
    "import json, sys; from tools.doctor import {part}; "
    "print(json.dumps([f.plain() for f in {part}.{name}()]))"
)


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def look(name: str, *, before: str = "", part: str = "machine", env=None) -> Finding:
    """One look in a process of its own, after a shell command has changed its limits."""
    code = LOOK.format(part=part, name=name)
    script = f"{before or ':'} && exec {sys.executable} -c '{code}'"
    done = run("bash", "-c", script, env=env)
    assert done.returncode == 0, done.stderr
    (finding,) = json.loads(done.stdout)
    return Finding(**finding)


def package(folder: Path, name: str, content: str) -> dict[str, str]:
    """An environment in which `import name` runs `content`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(content)
    return {"PYTHONPATH": str(folder)}


def named(report: dict, name: str) -> Finding:
    (found,) = [f for f in report["findings"] if f["name"] == name]
    return Finding(**found)


# Limits of the machine


def test_few_open_files():
    found = look("open_files", before="ulimit -S -n 256")
    assert (found.name, found.level, found.value) == ("ulimit -n", LOW, "256")
    assert found.data["soft"] == 256
    assert found.cure == f"ulimit -n {min(found.data['hard'], 65536)}"
    assert look("open_files", before="ulimit -S -n 1024").level == OK


def test_few_open_files_that_cannot_be_raised():
    found = look("open_files", before="ulimit -n 256")
    assert found.level == LOW and found.data == {"soft": 256, "hard": 256}
    assert found.cure.startswith("docker run --ulimit nofile=65536")


def test_small_shared_memory():
    mount = "mount -t tmpfs -o size=64m kinema-test /dev/shm"
    code = LOOK.format(part="machine", name="shared_memory")
    done = run("unshare", "-rm", "bash", "-c", f"{mount} && {sys.executable} -c '{code}'")
    if done.returncode:
        pytest.skip(f"no mount name space here: {done.stderr.strip()[:80]}")
    (found,) = json.loads(done.stdout)
    assert found["level"] == LOW and found["value"] == "64 MiB, 64 MiB free"
    assert found["effect"] == "workers with big clips need about 2 GiB"
    assert found["cure"] == "mount it larger (docker run --shm-size=8g) or data.workers=0"
    assert found["data"] == {"total_bytes": 64 * 2**20, "free_bytes": 64 * 2**20}


def test_no_shared_memory(tmp_path):
    (found,) = machine.shared_memory(str(tmp_path / "shm"))
    assert found.level == LOW and found.value == "No such file or directory"
    assert "data.workers=0" in found.cure


def test_the_need_for_shared_memory_is_that_of_the_recipe():
    from training import config

    recipe = config.load(ROOT / "configs" / "videomoco_k400.yaml", [])
    clip = recipe.clip.frames * 340 * 256 * 3
    batches = recipe.data.workers * recipe.data.prefetch_batches
    assert batches * recipe.data.batch_size * clip == machine.BIG_CLIPS


def test_a_temporary_folder_that_is_too_deep_for_sockets(tmp_path):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    found = look("temporary_folder", env={"TMPDIR": str(deep)})
    assert found.level == LOW and "AF_UNIX path too long" in found.value
    assert found.effect == "data.workers above 0" and "TMPDIR=/tmp" in found.cure


def test_a_temporary_folder_that_is_not_there(tmp_path):
    found = look("temporary_folder", env={"TMPDIR": str(tmp_path / "no")})
    assert found.level == LOW and f"because {tmp_path / 'no'} cannot be written" in found.value


def test_a_home_that_cannot_be_written():
    found = look("home", env={"HOME": "/proc/nobody"})
    assert found.level == LOW and found.value == "/proc/nobody cannot be written"
    assert "TRITON_CACHE_DIR" in found.cure


def cgroup(root: Path, text: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_limits_of_cgroups_version_2_and_of_those_above(tmp_path):
    files = {
        "a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n",
        "a/b/memory.max": "2147483648\n", "a/memory.max": "max\n",
    }  # fmt: skip
    root = cgroup(tmp_path, "0::/a/b\n", files)
    assert (cpu_quota(root), memory_limit(root)) == (2.5, 2**31)


def test_limits_of_cgroups_version_1_seen_from_a_container(tmp_path):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": "1073741824\n",
    }  # fmt: skip
    text = "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/\n"
    root = cgroup(tmp_path, text, files)
    assert (cpu_quota(root), memory_limit(root)) == (0.5, 2**30)


def test_no_limits(tmp_path):
    files = {
        "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }  # fmt: skip
    root = cgroup(tmp_path, "5:cpu:/\n4:memory:/\n", files)
    assert cpu_quota(root) is None and memory_limit(root) is None
    assert cpu_quota(tmp_path / "none") is None and memory_info(tmp_path / "none") == {}


def test_a_quota_below_the_cpus_names_the_threads(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    (found,) = machine.cpus()
    assert found.level == LOW and "a quota of 0.5" in found.value
    assert "OMP_NUM_THREADS=1" in found.cure and "run.threads=1" in found.cure


def test_a_small_memory_limit(monkeypatch):
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**30)
    (found,) = machine.memory()
    assert found.level == LOW and found.value.startswith("1 GiB, a limit below the machine's ")


def test_only_the_cpus_of_this_process_count():
    allowed = sorted(os.sched_getaffinity(0))[0]
    found = look("cpus", before=f"taskset -p -c {allowed} $$ >/dev/null")
    assert found.data["usable"] == 1


# Libraries


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("raise ImportError('libcuda.so.1: no such file')", "broken, ImportError: libcuda.so.1"),
        ("raise OSError('bad ELF header')", "broken, OSError: bad ELF header"),
        ("import no_such_part", "not installed (no_such_part)"),
        ("import os; os.kill(os.getpid(), 11)", "loading it ends the process with signal 11"),
        ("import os; os._exit(3)", "loading it ends the process with code 3"),
        ("raise SystemExit('license missing')", "with code 1 license missing"),
    ],
)
def test_a_broken_library_is_a_finding(tmp_path, monkeypatch, content, value):
    monkeypatch.setenv("PYTHONPATH", package(tmp_path, "triton", content)["PYTHONPATH"])
    (found,) = doctor.look_apart("Triton")
    assert found.level == OFF and value in found.value
    assert found.effect.startswith("fused GPU kernels") and found.cure.startswith("pip install")


def test_a_library_that_hangs_is_a_finding(tmp_path, monkeypatch):
    env = package(tmp_path, "triton", "import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", env["PYTHONPATH"])
    (found,) = doctor.look_apart("Triton", seconds=0.5)
    assert (found.level, found.value) == (OFF, "does not load within 0.5 s")


def test_a_library_may_print(tmp_path, monkeypatch):
    content = "print('[{\"name\": 1}]'); __version__ = '9.9'"
    monkeypatch.setenv("PYTHONPATH", package(tmp_path, "triton", content)["PYTHONPATH"])
    (found,) = doctor.look_apart("Triton")
    assert (found.level, found.value, found.data) == (OK, "9.9", {"version": "9.9"})


def test_each_optional_package_is_looked_at_alone(tmp_path, monkeypatch):
    (tmp_path / "sklearn.py").write_text("raise OSError('libgomp')")
    (tmp_path / "tensorboard.py").write_text("import tensorflow_is_not_here")
    (tmp_path / "decord.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("sklearn", "tensorboard", "decord"):
        monkeypatch.setitem(sys.modules, module, None)  # noted as absent, so it is again at the end
        monkeypatch.delitem(sys.modules, module)
    rows = {name: libraries.OPTIONAL[name] for name in ("sklearn", "tensorboard", "decord")}
    monkeypatch.setattr(libraries, "OPTIONAL", {**rows, "no_such": ("no-such", "nothing")})
    found = {finding.name: finding for finding in libraries.optional()}
    assert found["scikit-learn"].value == "broken, OSError: libgomp"
    assert "No module named 'tensorflow_is_not_here'" in found["tensorboard"].value
    assert found["no-such"].value == "not installed"
    assert found["no-such"].cure == "pip install no-such"
    assert found["decord2"].level == OK
    assert {found[name].level for name in ("scikit-learn", "tensorboard", "no-such")} == {OFF}


def test_versions_that_are_not_the_pinned_ones_are_named(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a==1\nnumpy==1.2.3\nno-such-package==4\n")
    monkeypatch.setattr(libraries, "REQUIREMENTS", requirements)
    (found,) = libraries.pins()
    assert found.level == LOW
    assert found.value.startswith("numpy ") and found.value.endswith(" for 1.2.3")


def test_codecs_that_an_own_ffmpeg_lacks_are_named(monkeypatch):
    monkeypatch.setattr(libraries, "_has", lambda av, name, mode: name not in ("hevc", "libx265"))
    _, decoders, encoders = libraries.codecs()
    assert (decoders.level, decoders.value) == (OFF, "without hevc")
    assert decoders.effect == "videos in hevc" and encoders.effect == "HEVC shards"
    assert decoders.data["missing"] == ["hevc"]


def test_codecs_are_asked_of_pyav():
    import av

    assert libraries._has(av, "mpeg4", "r") and not libraries._has(av, "no-such", "r")


def with_library(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which libraries of these names load: the C library's maths."""
    maths = ctypes.util.find_library("m")
    for place in ("/lib", "/usr/lib", "/lib64", "/usr/lib64"):
        for path in Path(place).rglob(maths):
            for name in names:
                (folder / name).symlink_to(path)
            return {"LD_LIBRARY_PATH": str(folder)}
    pytest.skip(f"{maths} was not found")


def test_engines_are_there_when_their_library_loads(tmp_path):
    env = with_library(tmp_path, "libnvcuvid.so.1", "libnvidia-opticalflow.so.1")
    assert look("nvdec", part="driver", env=env).level == OK
    assert look("optical_flow", part="driver", env=env).level == OK


def test_a_driver_library_that_is_none_is_a_finding(tmp_path):
    found = look("driver", part="driver", env=with_library(tmp_path, driver.NVML))
    assert found.level == OFF and "libnvidia-ml.so.1 is broken" in found.value
    assert "nvmlInit_v2" in found.value


def test_without_the_video_libraries_a_container_lacks_a_capability(monkeypatch):
    monkeypatch.setattr(driver, "has_driver", lambda: True)
    found = driver._library("NVDEC", "libno-such.so.1", "decoding")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in found.cure
    monkeypatch.setattr(driver, "has_driver", lambda: False)
    assert "--gpus all" in driver._library("NVDEC", "libno-such.so.1", "decoding").cure


# The program


@pytest.fixture(scope="module")
def crippled(tmp_path_factory) -> dict:
    """The report of a machine with a broken Triton, no GPU and few files."""
    env = package(tmp_path_factory.mktemp("broken"), "triton", "raise OSError('bad ELF header')")
    script = f"ulimit -n 256 && exec {sys.executable} -m tools.doctor --json"
    done = run("bash", "-c", script, env={**env, "CUDA_VISIBLE_DEVICES": ""})
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_machine_without_gpu_and_with_small_limits_trains_on_its_cpu(crippled):
    assert (crippled["can_train"], crippled["device"]) == (True, "cpu")
    assert {f["level"] for f in crippled["findings"]} <= {OK, OFF, LOW}


def test_each_thing_missing_says_what_it_switches_off_and_the_cure(crippled):
    assert named(crippled, "ulimit -n").level == LOW
    assert named(crippled, "Triton").value == "broken, OSError: bad ELF header"
    assert named(crippled, "CUDA").effect == "training on a GPU; it runs on the CPU, slower"
    for finding in crippled["findings"]:
        if finding["level"] != OK:
            assert finding["effect"] and finding["cure"], finding
            assert "\n" not in "".join(str(value) for value in finding.values())


def test_the_report_covers_the_machine(crippled):
    names = [finding["name"] for finding in crippled["findings"]]
    assert len(names) == len(set(names))
    assert {
        "Python", "CPUs", "memory", "/dev/shm", "ulimit -n", "TMPDIR", "home", "host name", "torch",
        "CUDA", "gloo", "NCCL", "DALI", "NVIDIA driver", "NVDEC", "optical-flow engine", "Triton",
        "PyAV", "decoders", "encoders", "numpy", "tensorboard", "scikit-learn", "distributed",
        "decord2", "pins",
    } <= set(names)  # fmt: skip
    assert named(crippled, "decoders").data["here"] == ["h264", "hevc", "vp9", "av1", "mpeg4"]
    assert named(crippled, "DALI").data["cpu"] is True


def test_without_a_library_that_training_needs_the_exit_code_is_2(tmp_path):
    for name in ("torch", "nvidia", "av"):
        env = package(tmp_path, name, f"raise ImportError('lib{name}.so.62')")
    done = run(sys.executable, "-m", "tools.doctor", env=env)
    assert (done.returncode, done.stderr) == (2, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "training cannot run here: torch, PyAV"
    at = [n for n, line in enumerate(lines) if line.startswith("stop")][-1]
    assert lines[at].split(maxsplit=2)[1:] == ["PyAV", "broken, ImportError: libav.so.62"]
    assert lines[at + 1].strip() == "needed for decoding"
    assert lines[at + 2].strip() == "cure: pip install -r requirements.txt"


def test_a_machine_that_starts_no_process_is_told_so():
    done = run("bash", "-c", f"ulimit -n 8 && exec {sys.executable} -m tools.doctor --json")
    assert (done.returncode, done.stderr) == (2, "")
    report = json.loads(done.stdout)
    assert not report["can_train"] and report["device"] is None
    torch = named(report, "torch")
    assert torch.level == STOP and "Too many open files" in torch.value
    assert torch.cure == "raise ulimit -n and ulimit -u"


SOME = [
    Finding("torch", OK, "2.13.0"),
    Finding("CUDA", OFF, "no \x1b[31mdriver", "the GPU", "install it"),
    Finding("/dev/shm", LOW, "64 MiB", "workers need more", "data.workers=0"),
]


def test_lines_where_there_is_no_terminal(capsys):
    print_table(SOME, doctor.conclusion(SOME))
    assert capsys.readouterr().out.splitlines() == [
        "ok    torch     2.13.0",
        "off   CUDA      no \\x1b[31mdriver",
        "                switches off: the GPU",
        "                cure: install it",
        "low   /dev/shm  64 MiB",
        "                workers need more",
        "                cure: data.workers=0",
        "",
        "training can run here, on the CPU; too small: /dev/shm",
    ]


def test_a_table_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "dumb")
    print_table(SOME, "the end")
    out = capsys.readouterr().out
    assert "✓  torch" in out and "–  CUDA" in out and "!  /dev/shm" in out and "\x1b[31m" not in out
    assert "cure: install it" in out and out.endswith("the end\n")


def test_a_terminal_without_rich_gets_the_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    print_table(SOME, "the end")
    assert capsys.readouterr().out.startswith("ok    torch     2.13.0\n")


def test_conclusions():
    gpu, dali = Finding("CUDA", OK, "H200"), Finding("DALI", OK, "2.4")
    assert doctor.conclusion([gpu, dali]) == "training can run here, on the GPU"
    assert doctor.device([gpu, Finding("DALI", OFF, "broken")]) == "cpu"
    assert doctor.device([gpu, dali, Finding("DALI on the GPU", OFF, "for CUDA 12")]) == "cpu"
    assert doctor.device([gpu, dali, Finding("PyAV", STOP, "broken")]) is None


def test_a_look_that_fails_is_a_finding():
    def fails():
        raise PermissionError(13, "Permission denied", "/proc/self/cgroup")

    (found,) = checked("CPUs", fails)
    assert found.level == OFF and "Permission denied" in found.value
    assert consequences(found)[1].startswith("cure: ")
