"""How a recipe is trained: loop, batches, optimiser, checkpoints, numerics. Brings torch."""
