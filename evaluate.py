"""Measure an encoder on labelled videos.

    python evaluate.py retrieval --checkpoint runs/x/checkpoints/step_00001000.pt \\
        --train train.parquet --test test.parquet -o results
    python evaluate.py linear --checkpoint random --recipe configs/x.yaml --train ... --test ...

Every test video is counted: one that does not decode is listed, never replaced.
Exit codes: 0 done, 2 usage or recipe, 3 data or failed videos, 4 checkpoint, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import DataError, Manifest
from training import checkpoint, config, distributed, errors, features, protocols, weights
from training.features import Features
from training.runlog import environment

BASELINES = {
    "random": "the network before training",
    "pixels": "the clip itself, averaged down to 12 x 12 pixels",
}

CROPS = {1: "central square", 3: "three squares along the long side"}  # by augment.eval_crops

Figures = dict[str, float]  # shares from 0 to 1, by the name of the measure


def main(argv: list[str]) -> int:
    return errors.exit_code_of(run, parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as clip.stride=2")
    parser.add_argument("--checkpoint", required=True, metavar="PATH|random|pixels")
    parser.add_argument("--recipe", help="of the network, for random, pixels and weights of others")
    parser.add_argument("--train", required=True, metavar="MANIFEST", help="gallery, or to fit on")
    parser.add_argument("--test", required=True, metavar="MANIFEST")
    parser.add_argument("--split", nargs=2, default=("", ""), metavar=("TRAIN", "TEST"),
                        help="splits to take from the two manifests")  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    parser.add_argument("--clips", type=_positive, default=10, help="uniform clips a video (10)")
    parser.add_argument("--batch-size", type=_positive, default=8,
                        help="videos at once (8): the features stay the same")  # fmt: skip
    parser.add_argument("--max-failed", type=int, default=0, help="failed videos allowed (0)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    state, recipe = load_source(args)
    train = Manifest.read(args.train, args.split[0], one_split=True)
    test = Manifest.read(args.test, args.split[1], one_split=True)
    for manifest in (train, test):
        check_labels(manifest)
    check_classes(train, test)
    make_folder(Path(args.output))
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    process = distributed.start(recipe.run.device)
    encoder = features.build_encoder(args.checkpoint, recipe, state)
    batched = replace(recipe, data=replace(recipe.data, batch_size=args.batch_size))
    measured: list[Features] = []
    for name, manifest in (("train", train), ("test", test)):
        key = feature_key(args, recipe, manifest)
        measured.append(
            features.cached(
                Path(args.output) / f"features_{name}.npz",
                key,
                lambda manifest=manifest: features.extract(
                    encoder, manifest, batched, clips=args.clips, device=process.device
                ),
            )
        )
    result, chance = PROTOCOLS[args.protocol](*measured, len(train.classes))
    report(args, recipe, train, test, measured, result, chance)
    failed = sum(len(part.failed) for part in measured)
    return DataError.exit_code if failed > args.max_failed else 0


def retrieval(train: Features, test: Features, classes: int) -> tuple[Figures, Figures]:
    """Recall at k: the test videos ask, the training videos answer. With it, that of chance."""
    return protocols.recall(test, train), protocols.chance(test, train)


def linear(train: Features, test: Features, classes: int) -> tuple[Figures, Figures]:
    """Accuracy of a linear classifier on frozen features. With it, that of a blind guess."""
    guess = {f"top-{k}": k / classes for k in (1, 5) if k <= classes}
    return protocols.linear_probe(train, test, classes), guess


PROTOCOLS = {"retrieval": retrieval, "linear": linear}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def load_source(args: argparse.Namespace) -> tuple[checkpoint.Checkpoint | None, config.Recipe]:
    """The checkpoint of a run, if it is one, and the recipe of the network.

    With --recipe the file is one of weights, of anybody's; exported ones have their recipe beside.
    """
    if args.checkpoint in BASELINES:
        if not args.recipe:
            raise errors.ConfigError(
                f"error: --checkpoint {args.checkpoint} needs --recipe: it says network and clip"
            )
        return None, config.load(args.recipe, args.overrides)
    path = Path(args.checkpoint)
    if args.recipe:
        return None, config.load(args.recipe, args.overrides)
    if path.suffix == weights.SAFETENSORS:
        return None, config.of_checkpoint(weights.recipe_beside(path), "", args.overrides)
    state = checkpoint.load(path)
    return state, config.of_checkpoint(state.config, state.stage, args.overrides)


def make_folder(path: Path) -> None:
    """Make the output folder before the work, not after it. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.ConfigError(
            f"error: cannot make the output folder · {path} · {error.strerror} · choose another "
            "with -o"
        ) from error


def check_labels(manifest: Manifest) -> None:
    """Raise DataError unless every video has a label."""
    missing = int((manifest.labels < 0).sum())
    if missing:
        raise DataError(
            f"error: evaluation needs labels, {missing} of {len(manifest)} videos have none · "
            f"{manifest.path} · index the class folders or a list with labels"
        )


def check_classes(train: Manifest, test: Manifest) -> None:
    """Raise DataError unless both manifests number the same classes alike."""
    if train.classes == test.classes:
        return
    missing, extra = set(train.classes) - set(test.classes), set(test.classes) - set(train.classes)
    raise DataError(
        f"error: train and test have other classes or another order: {len(missing)} only in train "
        f"{sorted(missing)[:3]}, {len(extra)} only in test {sorted(extra)[:3]} · {test.path} · "
        "index it again with --classes-from the training manifest"
    )


def feature_key(args: argparse.Namespace, recipe: config.Recipe, manifest: Manifest) -> dict:
    """All that the features depend on."""
    plain = recipe.plain()
    is_file = args.checkpoint not in BASELINES
    return {
        "checkpoint": checkpoint.sha256_of(Path(args.checkpoint)) if is_file else args.checkpoint,
        "manifest": manifest.fingerprint,
        "split": sorted(set(manifest.keys)) if args.split != ("", "") else "",
        "clips": args.clips,
        "seed": recipe.run.seed,
        **{part: plain[part] for part in ("clip", "augment", "backbone")},
    }


def report(
    args: argparse.Namespace,
    recipe: config.Recipe,
    train: Manifest,
    test: Manifest,
    measured: list[Features],
    result: Figures,
    chance: Figures,
) -> None:
    """Write <protocol>.json and print the figures with their denominators."""
    content = {
        "protocol": args.protocol,
        "checkpoint": args.checkpoint,
        "checkpoint_sha256": feature_key(args, recipe, test)["checkpoint"],
        "result": result,
        "chance": chance,
        "views": {"clips": args.clips, "frames": recipe.clip.frames, "stride": recipe.clip.stride,
                  "size": recipe.augment.size, "crop": CROPS[recipe.augment.eval_crops],
                  "eval_scale": recipe.augment.eval_scale},
        "classes": list(train.classes),
    }  # fmt: skip
    for name, manifest, part in zip(("train", "test"), (train, test), measured, strict=True):
        content[name] = {
            "manifest": manifest.path.name,
            "fingerprint": manifest.fingerprint,
            "evaluated": len(part.index),
            "of": part.videos,
            "failed": part.failed,
        }
        names = ", ".join(entry["path"] for entry in part.failed[:5])
        failed = f", failed {len(part.failed)} ({names})" if part.failed else ""
        print(f"{name}: evaluated {len(part.index)}/{part.videos}{failed}")
    content["environment"] = environment()
    path = Path(args.output) / f"{args.protocol}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    figures = "  ".join(
        f"{name} {100 * result[name]:.1f} % (chance {100 * value:.1f})"
        for name, value in chance.items()
    )
    print(f"{args.protocol} of {args.checkpoint}: {figures}\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
