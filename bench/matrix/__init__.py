"""Matrix runs: a file of models x backends x devices x options, run to its end however often it is interrupted."""
