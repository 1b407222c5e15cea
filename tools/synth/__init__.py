"""Synthetic action videos: labelled, deterministic, real H.264, made in a minute on two cores.

`python -m tools.synth OUT` writes OUT/<class>/<class>_<split>_s<seed>_<number>.mp4. The table in
`classes.py` shows the classes at a glance: each has its own motion (`motion.py`), scene texture
(`scene.py`) and object shape (`shape.py`). All else varies widely within a class (`shot.py`):
colours, scale, speed, direction, size, object pattern, distractors, camera, light, blur, noise.
Colour and raw pixels therefore tell little of the class, while shape, texture and motion tell much,
as in real action sets. With `--motion-only` scene and shape are drawn without regard to the class.

Every video is a pure function of (class, seed, split, number, options): the split's name is a part
of the random generator's key, so train and test never share a draw, whatever their seeds.
"""
