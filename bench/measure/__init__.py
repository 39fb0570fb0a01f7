"""The timed loop (in the child) and the statistics of what it leaves (pure functions)."""
