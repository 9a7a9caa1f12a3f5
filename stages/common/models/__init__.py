"""Models: backbones, text encoders, cloze classifiers, and how they compute."""
