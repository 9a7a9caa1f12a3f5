"""One step on many workers: Ray Train and Ray Data, ZeRO, swapping, and the memory that they need."""
