"""The action classes at a glance: one line each, with a motion, a scene and a shape of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tools.synth import motion, scene, shape


@dataclass(frozen=True, slots=True)
class ActionClass:
    """One action: how the object moves, the texture behind it, and the object's outline."""

    name: str
    motion: motion.Motion
    scene: scene.Scene
    shape: shape.Shape


CLASSES = (
    ActionClass("bouncing", motion.bounce, scene.bricks, shape.disc),
    ActionClass("swinging", motion.swing, scene.rays, shape.capsule),
    ActionClass("orbiting", motion.orbit, scene.rings, shape.crescent),
    ActionClass("dodging", motion.zigzag, scene.grass, shape.figure),
    ActionClass("spinning", motion.spin, scene.checker, shape.arrow),
    ActionClass("pulsing", motion.pulse, scene.dots, shape.heart),
    ActionClass("colliding", motion.collide, scene.planks, shape.square),
    ActionClass("swimming", motion.undulate, scene.lanes, shape.ring),
    ActionClass("hopping", motion.hop, scene.pebbles, shape.triangle),
    ActionClass("throwing", motion.throw, scene.net, shape.cross),
    ActionClass("rolling", motion.roll, scene.chevrons, shape.gear),
    ActionClass("juggling", motion.juggle, scene.clouds, shape.star),
)
