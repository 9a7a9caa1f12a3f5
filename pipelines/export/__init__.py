"""Writes a classifier of a run as a folder to deploy: weights, code, ONNX files and a model card."""
