"""The way from a pipeline to batches: the loader, its state, and its recovery from bad files."""
