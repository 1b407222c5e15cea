"""Optical flow of clips while training: luma in, pixels of motion out.

    config     the settings of all of them
    operator   which of the three computes it here, and why
    tvl1       TV-L1 in plain torch, on any device (tvl1_triton: its kernels for a GPU)
    nvof       the optical-flow engine of a GPU, through DALI
    dis        OpenCV's DIS, on the CPU
    encoding   flow as a network's input, or as bytes the way others store it
    views      operator and encoding together, for the clips of a loader
    beside     flow one batch ahead of the training, in a thread or on a stream of its own

Every operator takes a clip [B, T, H, W] uint8 and gives flow [B, 2, T-1, H, W] float32: how far
each pixel of a frame has moved in the next, to the right and down. As the clip has been cropped,
scaled and flipped before, its flow needs no such treatment.
"""
