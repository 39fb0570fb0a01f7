"""Whether a latency can be true: what a model must compute at least, and what a machine can do at most."""
