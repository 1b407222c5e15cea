"""What Kinema's speed is, beside what a user would otherwise take, in one run.

`python -m tools.benchmark data`: videos to clips, and videos to shards. `ops`: fused operations.
`step`: a whole training step. `flow`: optical flow, with its error. `gpu`: all that wants a GPU,
into one file for each device.
"""
