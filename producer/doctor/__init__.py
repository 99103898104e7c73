"""What is wrong with a set-up before a run: `celeriac doctor`.

collect_facts (Redis, folders, packages) --> facts --> checks, which are functions --> findings --> lines, or JSON
"""
