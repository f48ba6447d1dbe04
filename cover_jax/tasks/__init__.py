"""What a head learns: one object per kind of task has the loss, the activation, the metrics and their names."""
