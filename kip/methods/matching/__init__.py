"""Methods that match what networks do with learned images to what they do with natural ones."""
