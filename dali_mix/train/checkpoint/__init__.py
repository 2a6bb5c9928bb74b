"""What outlives a process: checkpoints on disk, the state in them, and how a run is found and continued."""
