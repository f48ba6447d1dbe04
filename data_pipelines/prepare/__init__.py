"""Turns a publisher's files or a folder into records: `python -m data_pipelines.prepare`."""
