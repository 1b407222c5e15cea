"""Video encoders: clip [B, 3, T, H, W] in, pooled feature [B, D] out, no classifier."""

from models.backbones.resnet3d import mc3_18, r2plus1d_18, r3d_18

__all__ = ["BACKBONES"]

BACKBONES = {
    "r3d_18": r3d_18,
    "mc3_18": mc3_18,
    "r2plus1d_18": r2plus1d_18,
}
