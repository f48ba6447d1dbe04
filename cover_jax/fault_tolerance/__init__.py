"""What happens when something goes wrong: lost hosts, hangs, signals, a second job, failing storage."""
