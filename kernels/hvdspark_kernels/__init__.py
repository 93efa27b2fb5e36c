"""hvdspark_kernels: arrays in, arrays out. One folder a kernel; see the README beside the package."""

__all__: list[str] = []
