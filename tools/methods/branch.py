"""Go on from the end of a stage under a recipe whose later stages are others.

python -m tools.methods.branch CHECKPOINT RECIPE run.dir=NEW key=value ...

puts the checkpoint into the new run's folder, where train.py with the same recipe and overrides
continues from it: variants that differ in their last stage share the stages before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training import checkpoint, config, errors
from training.errors import ConfigError
from training.resume import FREE_ON_RESUME


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.methods.branch", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return errors.exit_code_of(run, parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    recipe = config.load(args.recipe, args.overrides)
    path = branch(args.checkpoint, recipe, Path(recipe.run.dir))
    print(f"{path}: goes on from {args.checkpoint}")
    return 0


def branch(source: Path, recipe: config.Recipe, folder: Path) -> Path:
    """The checkpoint as one of `recipe`, in the run folder `folder`.

    Raises ConfigError where the recipes differ in what the checkpoint's steps depended on.
    """
    state = checkpoint.load(source)
    before = config.resolve(state.config, where=str(source)).plain()
    stages = list(before["run"]["stages"])
    later = stages[stages.index(state.stage) + 1 :] if state.stage in stages else []
    changed = config.differences(before, recipe.plain())
    past = [
        key
        for key in changed
        if key not in FREE_ON_RESUME
        and not any(key.startswith(f"run.stages.{stage}.") for stage in later)
    ]
    if past:
        raise ConfigError(
            f"error: the recipes differ before the end of stage '{state.stage}': "
            f"{', '.join(past)} · {source} · change later stages only"
        )
    branched = replace(state, config=recipe.plain())
    return checkpoint.save(folder / "checkpoints", branched, keep=recipe.run.keep_checkpoints)


if __name__ == "__main__":
    sys.exit(main())
