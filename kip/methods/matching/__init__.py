"""Methods that match the responses of networks to learned images with those to natural ones."""
