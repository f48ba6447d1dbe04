"""Compares what a dataset has with what it should have: `python -m data_pipelines.doctor`."""
