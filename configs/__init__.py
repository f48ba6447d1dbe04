"""Values only: what to train, on what, for how long."""
