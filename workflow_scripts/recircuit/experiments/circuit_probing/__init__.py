"""Circuit probing (Lepori et al., arXiv 2311.04354): a module per experiment."""
