"""Every op as its equation in plain torch: what runs on a CPU, and the baseline of a fused one.

One file per op, of the op's name; none holds a tensor that grows with the product of two of its
sizes, except the functions called `eager`: those are what others do, kept to be compared with.
"""
