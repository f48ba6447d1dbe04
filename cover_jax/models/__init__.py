"""TimeSformer with one head a dataset: `cover.functional` is the way in. Imports nothing of ours from elsewhere."""
