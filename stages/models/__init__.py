"""Models: backbones and their adapters, encoders and their heads, files and precision."""
