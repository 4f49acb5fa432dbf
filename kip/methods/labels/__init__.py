"""Label distillation and its baselines."""
