"""Whether outputs are right: a pure function of a reference, what was got, and a tolerance."""
