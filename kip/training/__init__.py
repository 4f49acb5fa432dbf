"""Training finite networks: recipes, the loop, losses, augmentation of training batches."""
