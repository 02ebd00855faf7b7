"""The finished smoke study, for all tests of this folder."""

from workflow import study

__all__ = ["study"]
