"""The finished small study, and the smoke study, for all tests of this folder."""

import pytest
from few import build_few

from workflow import clone_study, once, study

__all__ = ["copy", "few", "study"]


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """A copy of the project in which the small study was run. Never write into it."""
    return once(tmp_path_factory, "few", build_few)


@pytest.fixture
def copy(few, tmp_path):
    """A finished small study of the test's own."""
    return clone_study(few, tmp_path / "project")
