"""README.md beside exported weights: what was trained, on what, and how each file is loaded."""

from __future__ import annotations

from typing import Any

PUBLISHED_WIDTH = 64  # of torchvision's networks and of mmaction2's ResNet
MMACTION2_SLOW = (
    "conv1_kernel=(5, 7, 7), conv1_stride_t=2, pool1_stride_t=1, inflate=(0, 0, 1, 1), "
    "pretrained=None"
)


def card(facts: dict[str, Any], files: list[str]) -> str:
    """The card of weights that `tools.export` describes with `facts`. files: those it wrote."""
    loading = {
        "model.safetensors": in_kinema,
        "torchvision.pth": in_torchvision,
        "mmaction2.pth": in_mmaction2,
    }
    parts = [what(facts), table(facts), clip(facts), *(loading[name](facts) for name in files)]
    return "\n\n".join(parts) + "\n"


def what(facts: dict[str, Any]) -> str:
    backbone = facts["backbone"]
    seen = "optical flow" if facts["stream"] == "flow" else "pictures"
    return (
        f"# {backbone['name']} by {facts['method']}\n\n"
        f"An encoder of {seen} pretrained without labels: {facts['method']} on {backbone['name']}, "
        f"width {backbone['width']}, {facts['parameters'] / 1e6:.2f} M parameters. The encoder "
        "alone: no projection head, no classifier. How well it retrieves and recognises is not "
        "said here; measure it on your videos with evaluate.py."
    )


def table(facts: dict[str, Any]) -> str:
    recipe = facts["recipe"]
    optim = recipe["optim"]
    rows = {
        "method": f"{facts['method']}, stage '{facts['stage']}'; all options in config.json",
        "steps": f"{facts['steps']} in all, {recipe['data']['batch_size']} videos in each",
        "optimiser": f"{optim['name']}, {optim['schedule']} schedule, effective peak learning rate "
        f"{facts['peak_lr']:g}, weight decay {optim['weight_decay']:g}",
        "data": f"{recipe['data']['train']}, fingerprint `{facts['data_fingerprint']}`",
        "checkpoint": f"sha256 `{facts['checkpoint_sha256']}`",
        "made with": f"Kinema {facts['made_with']['git']}, torch {facts['made_with']['torch']}",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def clip(facts: dict[str, Any]) -> str:
    clip, augment = facts["recipe"]["clip"], facts["recipe"]["augment"]
    values = of_flow(facts) if facts["stream"] == "flow" else of_pictures(augment)
    return (
        "## Input and output\n\n"
        f"Clips `[B, 3, T, H, W]` of {values}; "
        f"trained with {clip['frames']} frames, every {_ordinal(clip['stride'])}, of "
        f"{augment['size']} x {augment['size']} pixels. The feature is "
        f"`[B, {facts['feature_dim']}]`."
    )


def of_pictures(augment: dict[str, Any]) -> str:
    return f"RGB in [0, 1], less {augment['mean']}, over {augment['std']}"


def of_flow(facts: dict[str, Any]) -> str:
    """The three channels of each frame, and what made them."""
    flow, augment = facts["recipe"]["flow"], facts["recipe"]["augment"]
    by = "an operator that the checkpoint does not name" if flow["operator"] == "auto" else None
    made = f"optical flow by {by or flow['operator']} from each of T + 1 frames to the next"
    if flow["encoding"] == "raw":
        return f"{made}: u (to the right) and v (down) in pixels, and zeros"
    channels = "128, v, u" if flow["official"] else "u, v, 128"
    return (
        f"{made} as a picture: channels {channels}, where -20 to 20 pixels of u (to the right) and "
        f"v (down) are 0 to 255; over 255, less {augment['mean']}, over {augment['std']}"
    )


def in_kinema(facts: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in facts["backbone"].items())
    eps = f", norm_eps={eps!r}" if (eps := facts["backbone"]["norm_eps"]) else ""
    return (
        "## model.safetensors\n\n```python\n"
        "from models import build_backbone\n"
        "from models.weights import load_backbone\n"
        "from safetensors.torch import load_file\n\n"
        f"backbone = build_backbone({options})\n"
        f'print(load_backbone(backbone, load_file("model.safetensors"){eps}))\n```\n\n'
        "or `python evaluate.py retrieval --checkpoint model.safetensors --train ... --test ...`, "
        "which finds network and clip in the config.json beside it, or `backbone.weights: "
        "model.safetensors` in a recipe, to pretrain further."
    )


def in_torchvision(facts: dict[str, Any]) -> str:
    name, width = facts["backbone"]["name"], facts["backbone"]["width"]
    family = "models" if name.startswith("resnet") else "models.video"
    eps, change = facts["backbone"]["norm_eps"], ""
    if eps:  # its video networks have no argument for it
        change = (
            "for layer in network.modules():\n"
            "    if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):\n"
            f"        layer.eps = {eps!r}\n"
        )
    text = (
        "## torchvision.pth\n\n```python\n"
        f"network = torchvision.{family}.{name}()\n{change}"
        'state = torch.load("torchvision.pth", weights_only=True)\n'
        "print(network.load_state_dict(state, strict=False))  # missing: its classifier alone\n```"
    )
    if width != PUBLISHED_WIDTH:
        text += (
            f"\n\nThe names are torchvision's, but its own {name} has width {PUBLISHED_WIDTH} and "
            f"not {width}: it takes these shapes only when changed to that."
        )
    if name.startswith("resnet"):
        text += "\n\nIt sees one frame; the feature of a clip is the mean over its frames."
    return text


def in_mmaction2(facts: dict[str, Any]) -> str:
    name, width = facts["backbone"]["name"], facts["backbone"]["width"]
    if name.startswith("slow"):
        depth = name.removeprefix("slow_r")
        kind = f"type='ResNet3dSlowOnly', depth={depth}, base_channels={width}, {MMACTION2_SLOW}"
    else:
        kind = f"type='ResNet', depth={name.removeprefix('resnet')}, pretrained=None"
    if eps := facts["backbone"]["norm_eps"]:
        norm = "BN3d" if name.startswith("slow") else "BN2d"
        kind += f", norm_cfg=dict(type='{norm}', requires_grad=True, eps={eps!r})"
    text = (
        "## mmaction2.pth\n\n```python\n"
        f"model = dict(backbone=dict({kind}), ...)\n"
        'load_from = "mmaction2.pth"\n```'
    )
    if not name.startswith("slow") and width != PUBLISHED_WIDTH:
        text += f"\n\nmmaction2's ResNet has width {PUBLISHED_WIDTH}, these weights {width}."
    return text


def _ordinal(number: int) -> str:
    return {1: "one", 2: "second", 3: "third"}.get(number, f"{number}th")
