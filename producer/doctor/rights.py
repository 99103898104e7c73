"""What the login may do, and the least that each kind of login has to be allowed: `celeriac doctor --acl`.

login --missing_rules of each role--> RightsFacts --check_rights--> findings; --setuser--> lines for an administrator
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from producer.doctor.findings import Finding, error, ok, warning
from tasks.protocol.rights import PRODUCER, ROLES, WORKER, Role
from worker_config.errors import ExitCode


@dataclass(frozen=True)
class RightsFacts:
    """A login: its user, the database that it uses, and by the name of each role the rules that it lacks."""

    user: str
    database: int
    missing: Mapping[str, Sequence[str]]


def check_rights(facts: RightsFacts) -> Finding:
    """Whether a run with this login would work: a producer's, or a worker's."""
    if had := [role.name for role in ROLES if not facts.missing[role.name]]:
        found = f"user {facts.user!r} has those of: {', '.join(had)}"
        if {PRODUCER.name, WORKER.name} & set(had):
            return ok("rights", found)
        return warning("rights", found, "a run needs another user: `celeriac doctor --acl` shows its rights")
    nearest = min((PRODUCER, WORKER), key=lambda role: len(facts.missing[role.name]))
    found = f"user {facts.user!r} lacks those of a {nearest.name}: {' '.join(facts.missing[nearest.name])}"
    return error("rights", found, "`celeriac doctor --acl` shows the rights of each kind of user", ExitCode.BROKER)


def report(facts: RightsFacts | None) -> str:
    """For each role what the login at hand lacks, if there is one, and the line that makes a user for it."""
    database = facts.database if facts else 0
    lines = []
    for role in ROLES:
        lines.append(f"# {role.name}: {role.does}")
        if facts:
            missing = " ".join(facts.missing[role.name])
            lines.append(f"# user {facts.user!r} " + (f"lacks {missing}" if missing else "may do all of it"))
        lines.append(setuser(role, database))
    return "\n".join(lines)


def values(facts: RightsFacts | None) -> dict[str, Any]:
    """The same, as plain values."""
    database = facts.database if facts else 0
    roles = {
        role.name: {
            "does": role.does,
            "setuser": setuser(role, database),
            **({"missing": list(facts.missing[role.name])} if facts else {}),
        }
        for role in ROLES
    }
    return {"user": facts.user if facts else None, "roles": roles}


def setuser(role: Role, database: int) -> str:
    """The line that makes a user of this role, by the role's name."""
    return f"ACL SETUSER {role.name} reset on >PASSWORD {' '.join(role.rules(database))}"
