"""What train.py and evaluate.py share. A run meets these modules in this order:

config       one YAML file and overrides -> a typed recipe
distributed  this process: its rank, its device, what all of them agree on
stages       when each stage begins and ends, and how it is built from the one before
weights      files of others' weights, and exported ones, into a network
resume       a checkpoint -> the state of a run
dry_run      all of that and one batch, told and not trained
staging      batches at fixed addresses, filled while the step before is computing
step         forward, objectives, gradients, weights (optim: optimisers and schedules)
readback     tensors on their way to the host, for which nobody waits
garbage      Python's collector, kept out of the steps
online       retrieval while it trains
runlog       the run folder: scalars, times, quarantine (step_lines, timing, live, loggers)
checkpoint   all that changes the next step, in one file
features     an encoder and a manifest -> features of every video (parts: those under way)
protocols    what evaluate.py measures with them
results      what it wrote, read back for tables
report       a run and its measurements -> one page
errors       what ends a program, each with its exit code and one line
"""
