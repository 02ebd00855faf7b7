"""E0 to E5 of the sequence-continuation paper: from prompts and a model to rows of tables, a module per experiment."""
