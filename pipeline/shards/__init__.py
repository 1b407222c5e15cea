"""From videos to tars made for random access, and from tars to byte ranges.

A video meets these modules in this order:

    transcode  any readable video -> bytes made for random access, by a preset
    normalise  upright, square pixels, 8-bit 4:2:0, constant rate: the rules, and the filter graph
    remux      the preset `copy`: the same packets in a new container
    encoded    those bytes, and the facts a manifest's row needs
    spool      one sample encoded into its own file, by any process
    shard      which samples stand in which shard; a shard written whole or not at all
    tar        a strict reader, and a writer with equal bytes for equal input
    check      do a manifest's tars lie where it says, before training starts
"""
