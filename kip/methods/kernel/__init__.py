"""Methods under infinitely wide networks' kernels: KIP and Label Solve."""
