"""Video encoders: clip [B, 3, T, H, W] in, pooled feature [B, D] out, no classifier.

Each has `feature_dim` (D) and `stages(clip)`, its feature maps [B, C, T, H, W] after the stem and
after four stages.
"""

from models.backbones.resnet2d import resnet18, resnet50
from models.backbones.resnet3d import mc3_18, r2plus1d_18, r3d_18
from models.backbones.s3d import s3d
from models.backbones.slow import slow_r50, slow_r101, slow_r152

__all__ = ["BACKBONES"]

BACKBONES = {
    "r3d_18": r3d_18,
    "mc3_18": mc3_18,
    "r2plus1d_18": r2plus1d_18,
    "s3d": s3d,
    "slow_r50": slow_r50,
    "slow_r101": slow_r101,
    "slow_r152": slow_r152,
    "resnet18": resnet18,
    "resnet50": resnet50,
}
