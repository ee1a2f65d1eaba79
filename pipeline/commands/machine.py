"""This machine: ``doctor``."""

from __future__ import annotations

from pipeline.commands.options import DebugOption, JsonOption, app, console, print_json


@app.command(epilog="Example: isoflop doctor --json")
def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """What is installed, which engines will run, the devices, the measured matmul rate."""
    from pipeline.doctor import examine, report

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        console().print(report(findings))
