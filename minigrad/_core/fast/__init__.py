"""The performance wing: loops, products and everything else that exists only for speed."""
