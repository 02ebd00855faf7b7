"""recircuit: the circuits of four papers, rebuilt from prompts to figures.

The floors, from the ground up: ``core`` (models, nodes, metrics), ``runs`` (forward passes within a memory budget),
``tasks`` (data sets), ``methods`` (sweeps, patching, probes), ``figures`` (table to picture), ``study`` (tables,
passports, inventory, claims). A module imports only from floors below its own.
"""
