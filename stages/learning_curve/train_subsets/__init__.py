"""Takes a few labeled examples per class for one point of the learning curve."""
