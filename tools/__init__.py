"""Programs, run as `python -m tools.NAME`; the rest is what they share.

doctor      what this machine has, and what it lacks
index       folders, lists, tars -> a manifest
verify      changed files, copies, overlap
preview     what the network will see
shard       videos -> tars made for random access
flow        optical flow as files, for who wants them
synth       labelled synthetic action videos
demo        all of Kinema on those (spread: over several seeds)
methods     does every method learn, and which of the papers' directions hold
export      a checkpoint -> weights for others
report      a run and its measurements -> one page
benchmark   speed, side by side with rivals
"""
