"""What a model is scored by, one file each: accuracy, perplexity, likelihood of answers."""
