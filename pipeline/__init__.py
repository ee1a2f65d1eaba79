"""A whole study: plan, preflight, schedule, record, fit, track; and the command line.

Importing this package, or asking for ``--help``, imports no torch, ray, deepspeed or mlflow.
"""

__version__ = "0.1.0"
