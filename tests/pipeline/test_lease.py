"""One leader per study, and a dead one leads nothing."""

import subprocess
import sys

import pytest

from pipeline.errors import BusyError
from pipeline.lease import leading

HOLD = """
import sys, time
from pathlib import Path
from pipeline.lease import leading
with leading(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_leader_is_told_who_leads_and_a_killed_one_frees_the_study(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"pid {holder.pid}"), leading(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with leading(tmp_path):
        pass


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="file/study cannot be written"),
        leading(tmp_path / "file" / "study"),
    ):
        pass
