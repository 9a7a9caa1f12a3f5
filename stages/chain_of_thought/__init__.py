"""Chain of thought: a causal model writes a rationale before its answer. Nothing is trained."""
