"""Models, one file each; small and readable."""
