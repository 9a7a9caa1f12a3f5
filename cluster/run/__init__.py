"""Running a plan on Ray: the driver's scheduler and the worker's side of a step."""
