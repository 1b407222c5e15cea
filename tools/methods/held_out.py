"""A scalar of a method's steps on videos that it was not trained on, such as its own accuracy.

python -m tools.methods.held_out CHECKPOINT --data test.parquet --scalar order_accuracy -o FILE
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import Manifest
from training import checkpoint, config, distributed, errors, stages
from training.errors import ConfigError

EPOCHS = 4  # over the videos, each time with other clips, crops and orders


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
    """Mean of the scalar over steps that change no weight, in the mode and on views of training.

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
    values = []
    for number, batch in enumerate(loader.batches(0, steps)):
        distributed.seed_step(recipe.run.seed, number, process.rank)
        with torch.no_grad():
            _, scalars = method(batch.views, batch.flow, batch.index, batch.start_frames)
        if scalar not in scalars:
            raise ConfigError(f"error: --scalar {scalar}: the method has {', '.join(scalars)}")
        values.append(float(scalars[scalar]))
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
