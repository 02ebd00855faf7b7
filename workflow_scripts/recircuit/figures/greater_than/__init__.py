"""The pictures of the greater-than paper, each from its tables."""
