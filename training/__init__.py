"""What train.py and evaluate.py share: recipes, processes, optimisers, checkpoints, run folder."""
