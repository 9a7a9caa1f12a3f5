"""WHAT a step does: plain torch and transformers; no ray, mlflow or deepspeed."""
