"""The schema of a run's config, its validation, and the flags that set it."""
