"""One step on several workers: Ray Train, Ray Data, ZeRO, NVMe offload, and the memory that workers need."""
