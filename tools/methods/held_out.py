"""A scalar of a method's steps on videos that it was not trained on, such as its own accuracy.

It is the mean over steps, but for prototype_use: of all the videos together, for one batch is too
small to fill the prototypes. A video comes with several clips, which often have one prototype, and
counts as so many videos: that lowers the figure a little, and never raises it.

python -m tools.methods.held_out CHECKPOINT --data test.parquet --scalar order_accuracy -o FILE
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.diagnostics import prototype_use
from models.methods.vicc import ViCC
from pipeline import Batch, Manifest
from training import checkpoint, config, distributed, errors, stages
from training.errors import ConfigError

POOLED = "prototype_use"  # a scalar of all steps together
EPOCHS = 2  # over the videos, each time with other clips, crops and orders


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.methods.held_out", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, metavar="MANIFEST")
    parser.add_argument("--scalar", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return errors.exit_code_of(run, parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    value = held_out(checkpoint.load(args.checkpoint), Manifest.read(args.data), args.scalar)
    args.output.write_text(json.dumps({args.scalar: value}) + "\n")
    print(f"{args.scalar} {value:.3f} on {args.data}")
    return 0


def held_out(state: checkpoint.Checkpoint, manifest: Manifest, scalar: str) -> float:
    """The scalar over steps that change no weight, in the mode and on views of training.

    Batch norm goes by the statistics of its batch, as in training. Raises ConfigError for a scalar
    that the method does not have.
    """
    recipe = config.of_checkpoint(state.config, state.stage, ["run.device=cpu"])
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    steps = max(1, EPOCHS * len(manifest) // recipe.data.batch_size)
    process = distributed.start("cpu")
    alone = replace(recipe, run=replace(recipe.run, steps=steps, stages={}))
    (stage,) = stages.plan(alone, len(manifest))
    method, _ = stages.build(stage, process, fresh=False)
    method.load_state_dict(state.method)
    loader = stages.training_loader(stage, manifest, method, process)
    method.begin_step(math.inf, sys.maxsize)  # what starts inside a stage has started
    batches = loader.batches(0, steps)
    if scalar == POOLED and isinstance(method, ViCC):
        return use_of_prototypes(method, batches)
    values = []
    for number, batch in enumerate(batches):
        distributed.seed_step(recipe.run.seed, number, process.rank)
        with torch.no_grad():
            _, scalars = method(batch.views, batch.flow, batch.index, batch.start_frames)
        if scalar not in scalars:
            raise ConfigError(f"error: --scalar {scalar}: the method has {', '.join(scalars)}")
        values.append(float(scalars[scalar]))
    return sum(values) / len(values)


def use_of_prototypes(method: ViCC, batches: Iterable[Batch]) -> float:
    """`prototype_use` of all batches as one; of several sets of prototypes the mean."""
    nearest = [method.nearest_prototypes(batch.views, batch.flow) for batch in batches]
    sets = zip(zip(*nearest, strict=True), method.trained.prototypes, strict=True)
    uses = [prototype_use(torch.cat(numbers), len(vectors)) for numbers, vectors in sets]
    return float(torch.stack(uses).mean())


if __name__ == "__main__":
    sys.exit(main())
