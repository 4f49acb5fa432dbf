"""Pictures: grids of images, curves, panels and charts of results."""
