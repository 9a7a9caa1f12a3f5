"""What a section says of the workers of a stream."""

from __future__ import annotations

from pydantic import BaseModel, Field

from cluster.step import Resources


class StreamSection(BaseModel, frozen=True, extra="forbid"):
    """Workers that take batches of a stream, each when it is free."""

    cpus: float = Field(1.0, gt=0, description="Processor cores a worker; as many threads compute.")
    gpus: float = Field(0.0, ge=0, description="GPUs a worker.")
    workers: int = Field(1, ge=1, description="Workers; each loads its models once, and takes batches.")

    @property
    def resources(self) -> Resources:
        """What a step gets."""
        return Resources(cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy="stream")
