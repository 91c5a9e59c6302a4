"""Runs on a Ray cluster, by Ray Train and by Ray's jobs. Only this folder of training imports ray."""
