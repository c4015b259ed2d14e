"""Other hardware for what an operator computes, one file each: the same codes for less."""
