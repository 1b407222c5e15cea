"""How far labels would take the same network: the ceiling of a recipe on a labelled data set.

python -m tools.supervised configs/demo.yaml --train demo/train.parquet --test demo/test.parquet

The backbone of the recipe with a linear layer, trained by cross entropy on the recipe's first
view, with its batch, optimiser and schedule, for as many steps as all its stages together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from models import build_backbone
from pipeline import Manifest, build_evaluation_loader, build_loader
from pipeline.augment import of_view
from training import config, errors, stages
from training.optim import build_optimizer, lr_at, set_lr


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.supervised", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--train", required=True, metavar="MANIFEST")
    parser.add_argument("--test", required=True, metavar="MANIFEST")
    parser.add_argument("--clips", type=int, default=2, help="uniform clips of a test video (2)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return errors.exit_code_of(run, parser.parse_intermixed_args(argv))


def run(args: argparse.Namespace) -> int:
    recipe = config.load(args.recipe, args.overrides)
    train, test = (Manifest.read(path, one_split=True) for path in (args.train, args.test))
    accuracy = measure(recipe, train, test, clips=args.clips)
    print(f"supervised: top-1 {100 * accuracy:.1f} % of {len(test)} test videos")
    return 0


def measure(recipe: config.Recipe, train: Manifest, test: Manifest, *, clips: int) -> float:
    """Top-1 accuracy on the test videos after training on the labels; the mean over the clips."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    torch.manual_seed(recipe.run.seed)
    backbone = build_backbone(**recipe.backbone.network())
    model = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, len(train.classes)))
    fit(model, recipe, train)
    model.eval()
    right = 0
    loader = build_evaluation_loader(
        test, clip=recipe.clip, augment=recipe.augment, data=recipe.data, clips=clips
    )
    with torch.inference_mode():
        for batch in loader:
            votes = sum(model(view).softmax(dim=1) for view in batch.views)
            right += int((votes.argmax(dim=1) == batch.label).sum())
    return right / len(test)


def fit(model: nn.Module, recipe: config.Recipe, train: Manifest) -> None:
    """Cross entropy over as many steps as the recipe's stages have in all."""
    steps = stages.plan(recipe, len(train))[-1].last_step
    epochs = steps * recipe.data.batch_size / len(train)
    optimizer = build_optimizer(model, recipe.optim)
    loader = build_loader(
        train,
        clip=replace(recipe.clip, sampling="same"),  # pairs and segments make no single view
        augment=of_view(recipe.augment, 0),
        data=recipe.data,
        seed=recipe.run.seed,
        views=1,
    )
    for step, batch in enumerate(loader.batches(0, steps)):
        at = epochs * step / steps
        size = recipe.data.batch_size
        set_lr(optimizer, lr_at(at, recipe.optim, epochs=epochs, global_batch=size))
        loss = F.cross_entropy(model(batch.views[0]), batch.label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % recipe.run.log_every_steps == 0:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
