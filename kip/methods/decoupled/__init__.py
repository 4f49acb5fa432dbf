"""Methods that look at the data once, through a trained network, and then recover or choose images without it."""
