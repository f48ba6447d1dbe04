"""From a publisher's files or a folder to records: `python -m data_pipelines.prepare`."""
