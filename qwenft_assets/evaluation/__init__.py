"""What training bought: loss and perplexity per token, base against adapter, with an interval."""
