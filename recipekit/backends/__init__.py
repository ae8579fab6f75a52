"""How a trained model is run, one file per library: evaluator and inference share it, so what was evaluated serves."""
