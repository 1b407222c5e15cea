"""Shows what the network will see: source frames, every view, and what was done to it.

python -m tools.preview configs/demo.yaml -o sheet.png --html page.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import Manifest
from pipeline.whole import whole_file
from tools.console import exit_code_of, positive, printable
from tools.preview.page import page
from tools.preview.samples import read_samples
from tools.preview.sheet import sheet
from training import config, errors, stages

MOST_SAMPLES = 100  # a sheet is one picture in memory


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage or recipe, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_intermixed_args(argv)
    return exit_code_of(
        _preview,
        arguments,
        output=arguments.output,
        interrupted="nothing was written",
        errors=(*errors.ALL, ValueError, ImportError),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.preview",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", metavar="CONFIG", help="a YAML file, see configs/")
    add("overrides", nargs="*", metavar="key=value", help="as train.py takes them")
    add("-o", "--output", type=_named(".png"), required=True, metavar="SHEET.png")
    add("--html", type=_named(".html"), metavar="PAGE.html", help="the same with moving clips")
    add("--samples", type=_samples, default=6, help=f"how many, at most {MOST_SAMPLES}")
    add("--step", type=_step, help="step of the run to begin at; default: the stage's first")
    add("--stage", help="one of run.stages; default: the stage of the step")
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _preview(arguments: argparse.Namespace) -> int:
    recipe = config.load(arguments.recipe, arguments.overrides)
    manifest = Manifest.read(recipe.data.train, recipe.data.split, one_split=True)
    stage = _chosen(stages.plan(recipe, len(manifest)), arguments.stage, arguments.step)
    step = stage.first_step if arguments.step is None else arguments.step
    samples = list(read_samples(stage, manifest, step=step, count=arguments.samples))
    words = {"title": f"What {recipe.method.name} sees", "lead": _lead(stage, step, len(samples))}
    image = sheet(samples, **words)
    written = [path for path in (arguments.output, arguments.html) if path]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.output) as file:
        image.save(file, "PNG")
    if arguments.html:
        text = page(samples, **words, stride=stage.recipe.clip.stride)
        with whole_file(arguments.html) as file:
            file.write(text.encode())
    print(printable(f"{_counted(len(samples))} · {' · '.join(map(str, written))}"))
    return 0


def _chosen(schedule: list[stages.Stage], name: str | None, step: int | None) -> stages.Stage:
    """The stage called `name`, else the one that `step` is in, else the first."""
    if name is not None:
        named = [stage for stage in schedule if stage.name == name]
        if not named:
            known = ", ".join(stage.name for stage in schedule)
            raise ValueError(f"--stage: the recipe has no stage '{name}', only {known}")
        return named[0]
    if step is not None and step >= schedule[-1].last_step:
        raise ValueError(f"--step: the run ends at step {schedule[-1].last_step}, got {step}")
    return next(stage for stage in schedule if (step or 0) < stage.last_step)


def _lead(stage: stages.Stage, step: int, samples: int) -> str:
    recipe = stage.recipe
    clip, size = recipe.clip, recipe.augment.size
    return (
        f"{_counted(samples)} of stage '{stage.name}' from step {step:,} on, as training gets them "
        f"with seed {recipe.run.seed}: clips of {clip.frames} frames, stride {clip.stride}, "
        f"{size} × {size} pixels."
    )


def _counted(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples} samples"


def _named(suffix: str) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if Path(text).suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"expected a name that ends in {suffix}, got '{text}'")
        return Path(text)

    return path


def _samples(text: str) -> int:
    if positive(text) > MOST_SAMPLES:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_SAMPLES}, got {text}")
    return int(text)


def _step(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
