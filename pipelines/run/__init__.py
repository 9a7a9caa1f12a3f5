"""A run from request to published report: check, plan, execute, publish, register models."""
