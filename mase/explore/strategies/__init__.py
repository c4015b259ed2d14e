"""Search strategies, one file each; the registered name is the file name."""
