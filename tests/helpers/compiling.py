"""Programs that a test compiles as a user's are, because their last digits are looked at."""

import os

AS_USERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ.get("XLA_FLAGS", "") else {}
"""Options for `jax.jit` that take back what `conftest.py` asks of XLA's emitters.

With the earlier ones the variances of an image and its covariance with itself round apart.
"""
