"""This package looks for what is wrong with a set-up before a run: `celeriac doctor`.

gather (Redis, folders, packages) --> facts --> checks, which are functions --> findings --> lines, or JSON
"""

from producer.doctor.findings import Finding, Level, exit_code

__all__ = ["Finding", "Level", "exit_code"]
