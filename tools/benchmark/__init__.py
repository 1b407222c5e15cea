"""What Kinema's speed is, beside what a user would otherwise take, in one run.

`python -m tools.benchmark data`: videos to clips, and videos to shards. `ops`: fused operations.
`step`: a whole training step, and waiting for data. `flow`: optical flow, with its error. `scale`:
several processes, and a model of many nodes. `memory`: what a long run keeps. `nvdec`: the video
decoders of a GPU. `cpu` and `gpu`: all that cores can show and all that wants a GPU, into one
record for each device.

A command shows tables, and writes `<command>.json` and `<command>.html`.
"""
