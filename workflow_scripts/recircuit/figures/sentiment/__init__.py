"""The figures and tables of the sentiment paper."""
