"""Methods that differentiate through the training of a network: the original DD, and label distillation."""
