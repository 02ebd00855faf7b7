"""recircuit: the circuits of four papers, rebuilt from prompts to figures.

The floors, from the ground up: ``core`` (models, nodes, metrics), ``runs`` (forward passes within a memory budget),
``tasks`` (data sets), ``methods`` (sweeps, patching, probes), ``figures`` (table to picture), ``study`` (tables,
passports, inventory, claims). A module imports only from floors below its own.
"""

import gc

# What is imported stays. To look for garbage among it is a quarter of the time that importing torch takes, and a job starts in
# seconds; `study.job.run` goes back to Python's own threshold.
gc.set_threshold(200_000)
