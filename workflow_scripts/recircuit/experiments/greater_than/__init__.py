"""E0 to E13 of the greater-than paper: from prompts and a model to rows of tables, a module per experiment."""
