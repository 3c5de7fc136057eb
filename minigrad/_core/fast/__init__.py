"""The performance wing: loops, products and whatever else is there for speed alone."""
