"""What a run on a cluster submits, told by dry-runs of studies from nothing."""

import re
from collections import Counter

import pytest

from workflow import copy_project, planned, rules

pytestmark = pytest.mark.slow
LOCAL = {rule.name: rule.parts.get("localrule", "False").strip() for rule in rules()}
READS_TABLES = re.compile("_(plot|score|make|write|fetch|copy)_|^(fetch|copy)_")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A copy of the project in which nothing was computed."""
    return copy_project(tmp_path_factory.mktemp("cluster") / "project")


def submitted(jobs, embedded):
    """Return those of the jobs that SLURM is given, in a study of embedded models alone or in another."""
    here = {"True", "EMBEDDED"} if embedded else {"True"}
    return Counter({rule: count for rule, count in jobs.items() if rule != "all" and LOCAL[rule] not in here})


def test_a_rule_is_local_always_never_or_for_embedded_models():
    assert set(LOCAL.values()) == {"True", "False", "EMBEDDED"}
    for rule, local in LOCAL.items():
        if READS_TABLES.search(rule):
            assert local == "True", "reads tables, or needs the network"


def test_the_default_study_submits_forty_jobs_at_most(fresh):
    jobs = submitted(planned(fresh, "all"), embedded=True)
    assert jobs.total() <= 40, jobs
    assert {"train_model", "certify_model", "cp_train_masks", "seq_prune_nodes"} <= set(jobs)


def test_what_runs_a_published_model_is_submitted(fresh):
    jobs = submitted(planned(fresh, "all", "--configfile", "configs/paper.yaml"), embedded=False)
    assert {rule for rule, local in LOCAL.items() if local == "EMBEDDED"} <= set(jobs)
    assert not any(READS_TABLES.search(rule) for rule in jobs)
