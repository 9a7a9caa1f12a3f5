"""Numbers about predictions: scores, calibration, and a test of differences."""
