"""The fields of a job's hash: the script that counts answers spells them as their owner does."""

from __future__ import annotations

import re

from tasks.protocol.keys import JobField
from tasks.transport import scripts


def test_the_script_of_answers_writes_no_field_that_has_no_owner() -> None:
    values = [value for name, value in vars(JobField).items() if name.isupper()]
    names = {name for value in values for name in ([value] if isinstance(value, str) else value)}
    script = scripts.text_of("publish_answer")
    used = set(re.findall(r"'H(?:GET|SET|SETNX|INCRBY|EXISTS)', job, '(\w+:?)'", script))
    used |= set(re.findall(r"'(\w+)'", re.findall(r"'HMGET', job, (.*?)\)", script)[0]))
    used |= {"failure"} if "'failure', failure" in script else set()
    assert len(used) > 10
    assert used <= names, used - names
