"""A gang whose process cannot be made says why, in one plain line."""

from ray.exceptions import ActorDiedError, RayTaskError

from launch.gang import told

TRACEBACK = (
    "\x1b[36mray::Worker.__init__()\x1b[39m (pid=7, ip=127.0.0.1, actor_id=a)\n"
    "RuntimeError: The actor with name Worker failed to import on the worker:\n\n"
    "Traceback (most recent call last):\n"
    '  File "worker.py", line 1, in <module>\n'
    "    import torch\n"
    "ImportError: libcudart.so.13: cannot open shared object file\n"
    "  Check the installation, or ask who made it.\n"
)


def test_the_cause_of_a_process_that_could_not_be_made_is_its_last_exception():
    cause = RayTaskError("Worker.__init__", TRACEBACK, ImportError("libcudart.so.13"), "w", 7, "::")
    assert told(ActorDiedError(cause)) == (
        "a rank's process could not be made: "
        "ImportError: libcudart.so.13: cannot open shared object file"
    )


def test_a_process_that_died_later_is_told_by_rays_summary():
    assert told(ActorDiedError()) == (
        "a rank's process died: The actor died unexpectedly before finishing this task."
    )
