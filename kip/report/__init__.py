"""Pictures, curves and the page of a run."""
