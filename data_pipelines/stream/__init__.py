"""From records to batches: which dataset, which examples, which frames."""
