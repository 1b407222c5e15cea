"""Weights of a run for others: files, names, and a card that says what they are.

python -m tools.export runs/x/checkpoints/step_00001000.pt -o x

model.safetensors and config.json for Kinema, torchvision.pth by torchvision's names, mmaction2.pth
for mmaction2's ResNet and ResNet3dSlowOnly, and README.md, which says how each is loaded. Each has
the encoder alone, in the bits of the checkpoint: no head, no queue, no optimiser. Of ViCC's two
streams it is the one that the checkpoint's stage trained, or that of --stream.
Exit codes: 0 done, 2 usage, 4 checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from models.layouts import to_mmaction2
from pipeline.checksum import sha256
from pipeline.whole import whole_file
from tools.export.card import card
from training import checkpoint, config, errors, features, weights
from training.optim import peak_lr

FORMATS = weights.EXPORTED
IN_TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "resnet18", "resnet50")
IN_MMACTION2 = ("resnet18", "resnet50", "slow_r50", "slow_r101", "slow_r152")


def main(argv: Sequence[str] | None = None) -> int:
    return errors.exit_code_of(run, parse(argv))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tools.export", description=description)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="of a run")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--format", choices=FORMATS, help="only this one (all that there are)")
    parser.add_argument("--stream", choices=("rgb", "flow"),
                        help="of ViCC's two (the one that its last stage trained)")  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    state = checkpoint.load(args.checkpoint)
    if args.stream and (name := state.config["method"]["name"]) != "vicc":
        raise errors.ConfigError(
            f"error: --stream chooses one of ViCC's two, this is a checkpoint of {name} · "
            f"{args.checkpoint} · leave it out"
        )
    stream = [f"method.stream={args.stream}"] if args.stream else []
    recipe = config.of_checkpoint(state.config, state.stage, stream)
    refuse_untrained(state, features.stream_of(recipe))
    formats = formats_of(recipe.backbone.name, args.format)
    encoder = features.build_encoder(str(args.checkpoint), recipe, state)
    tensors = {name: t.detach().contiguous() for name, t in encoder.state_dict().items()}
    facts = facts_of(state, recipe, encoder, sha256=sha256(args.checkpoint))
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        for name in formats:
            write(args.output / FORMATS[name], encoded(name, tensors))
        write(args.output / weights.CONFIG, (json.dumps(facts, indent=2) + "\n").encode())
        write(args.output / "README.md", card(facts, [FORMATS[name] for name in formats]).encode())
    except OSError as error:
        raise errors.ConfigError(
            f"error: cannot write the weights · {args.output} · {error.strerror} · choose another "
            "folder with -o"
        ) from error
    written = ", ".join([*(FORMATS[name] for name in formats), weights.CONFIG, "README.md"])
    print(f"{len(tensors)} tensors of {recipe.backbone.name} written to {args.output}: {written}")
    return 0


def formats_of(backbone: str, asked: str | None) -> list[str]:
    """The formats that exist for a backbone, or the one asked for. Raises ConfigError."""
    has = {"kinema": True, "torchvision": backbone in IN_TORCHVISION,
           "mmaction2": backbone in IN_MMACTION2}  # fmt: skip
    if asked and not has[asked]:
        others = " or ".join(name for name in FORMATS if has[name])
        raise errors.ConfigError(
            f"error: --format {asked}: {asked} has no {backbone} · take {others}"
        )
    return [asked] if asked else [name for name in FORMATS if has[name]]


def refuse_untrained(state: checkpoint.Checkpoint, stream: str) -> None:
    """Raises ConfigError for the one of ViCC's streams that no stage has trained so far."""
    steps = state.method.get(f"streams.{stream}.steps")
    if steps is not None and not steps:
        raise errors.ConfigError(
            f"error: --stream {stream}: no stage has trained it up to step {state.step} · take the "
            "other one, or a later checkpoint"
        )


def encoded(form: str, tensors: dict[str, Tensor]) -> Any:
    """What is saved in a format: the same tensors by the names that its readers look for."""
    if form == "mmaction2":
        return {"state_dict": {to_mmaction2(name): t for name, t in tensors.items()}}
    return safetensors.torch.save(tensors) if form == "kinema" else tensors


def write(path: Path, content: Any) -> None:
    """Bytes as they are, anything else by torch.save."""
    with whole_file(path) as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            torch.save(content, file)


def facts_of(
    state: checkpoint.Checkpoint, recipe: config.Recipe, encoder: nn.Module, *, sha256: str
) -> dict[str, Any]:
    """config.json: the network, what it was trained on and how, and the recipe to build it by.

    sha256: of the checkpoint's file.
    """
    plain = recipe.plain()
    # Where things lay on the machine that trained is nobody's business.
    plain["run"]["dir"] = ""
    for part, key in (("data", "train"), ("backbone", "weights"), ("online", "manifest")):
        plain[part][key] = Path(plain[part][key]).name
    # By name, so that `auto` comes to no other one where the weights are measured or trained on.
    plain["flow"]["operator"] = state.flow.get("operator", plain["flow"]["operator"])
    stream = features.stream_of(recipe)
    return {
        "backbone": recipe.backbone.network(),
        "stream": stream,
        "flow": state.flow if stream == "flow" else {},
        "feature_dim": encoder.feature_dim,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "method": recipe.method.name,
        "stage": state.stage,
        "steps": state.step,
        "peak_lr": peak_lr(recipe.optim, recipe.data.batch_size),
        "data_fingerprint": state.data_fingerprint,
        "checkpoint_sha256": sha256,
        "made_with": {name: state.versions.get(name, "unknown") for name in ("git", "torch")},
        "recipe": plain,
    }


if __name__ == "__main__":
    sys.exit(main())
