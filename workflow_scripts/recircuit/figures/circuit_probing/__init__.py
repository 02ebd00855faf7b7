"""Pictures of circuit probing, in the paper's style: a dark grid and the palette Dark2."""
