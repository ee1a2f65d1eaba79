"""The slots of a study: those of this machine, or of the cluster that this process is in."""

import pytest

from pipeline.cluster_file import load_cluster
from pipeline.config import load_study
from pipeline.errors import StudyError
from pipeline.machine import Machine


def test_a_process_on_no_node_of_a_cluster_is_told_what_to_do(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(StudyError, match="`isoflop submit` sends a study there"):
        Machine(load_study("quickstart"), None, load_cluster("lab"))


def test_more_ranks_than_slots_are_refused():
    study = load_study("quickstart", ["parallel.ranks=2"])
    with pytest.raises(StudyError, match="given 2, allowed: at most the 1 slots of this machine"):
        Machine(study, 1)
