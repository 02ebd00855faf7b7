"""The experiments of the sentiment paper (Tigges et al., arXiv 2310.15154)."""
