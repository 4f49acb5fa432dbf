"""GPUs that programs can be compiled for where none is: their descriptions, as XLA's compiler reads them.

The numbers are the vendors', as openxla/xla has them in `xla/backends/gpu/target_config/specs`.
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A GPU.

    Attributes:
        name: what its driver calls it.
        capability: the major number of its compute capability.
        features: its instructions beside those of the capability; "" if none.
        cores: multiprocessors.
        lanes: float32 units of each.
        clock_ghz: its highest clock.
        bandwidth: of its memory, in bytes a second.
        memory: in bytes.
        shared_memory: of a multiprocessor, in bytes.
        cache: its second-level cache, in bytes.
    """

    name: str
    capability: int
    features: str
    cores: int
    lanes: int
    clock_ghz: float
    bandwidth: int
    memory: int
    shared_memory: int
    cache: int

    @property
    def operations_per_second(self) -> float:
        """Instructions of float32 that all lanes begin in a second."""
        return self.cores * self.lanes * self.clock_ghz * 1e9

    @property
    def description(self) -> str:
        """The text of XLA's GpuTargetConfigProto."""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_memory}
  shared_memory_per_block_optin: {self.shared_memory - 1024}
  core_count: {self.cores} fpus_per_core: {self.lanes}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache} clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory} registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {self.capability} {self.features} }}
  device_vendor: "NVIDIA Corporation" name: "{self.name}" device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{self.name}"
"""


TARGETS = {
    "h100": Target(
        "NVIDIA H100 80GB HBM3",
        9,
        "feature_extension: ACCELERATED_FEATURES",
        132,
        128,
        1.98,
        3_352_320_000_000,
        84_942_979_072,
        233_472,
        52_428_800,
    ),
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", 8, "", 108, 64, 1.41, 2_039_040_000_000, 85_100_068_864, 167_936, 41_943_040
    ),
}
