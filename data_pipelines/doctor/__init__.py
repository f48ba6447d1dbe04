"""Checks whether a dataset has everything that it should have: `python -m data_pipelines.doctor`."""
