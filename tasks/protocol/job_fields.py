"""The fields of a job's hash, `celeriac:job:ID`: each named once, with what it holds and who writes it.

    producer                 STATE, RECORD; of a detached job CHUNKS, TTL, MODELS, before its first message
    children, by one script  all others (`tasks/transport/publish_answer.py`, whose Lua spells them as they are here)
    whoever looks after it   SENT_AGAIN; takes RESEND away (`tasks/transport/resend_detached.py`)

A detached job has no producer to write its record, so that its children count in the hash itself.
"""

from __future__ import annotations

from typing import Final

# Of any job: what workers look at before each chunk, "running" or how it ended; its `JobRecord`, as JSON.
STATE: Final = "state"
RECORD: Final = "record"
# Followed by a model's name: how an executor of it differed from the model's own graph, which then runs it, as JSON.
OWN_GRAPH: Final = "own_graph:"

# Of a detached job: how many answers end it, the seconds it is kept, and how many models it has.
CHUNKS: Final = "chunks"
TTL: Final = "ttl"
MODELS: Final = "models"
# Rows; the last two are of those predicted.
ROWS: Final = ("predicted", "failed", "nonfinite_inputs", "nonfinite_outputs")
# Chunks: that have an answer, of which a second answer was dropped, and that were sent again.
ANSWERED: Final = "answered"
DUPLICATES: Final = "duplicates"
SENT_AGAIN: Final = "sent_again"
# Unix seconds of the last answer; the record of the rows that ended the job, as JSON.
ANSWERED_AT: Final = "answered_at"
FAILURE: Final = "failure"
# Followed by a model's name: the first record of one that failed alone, as JSON; and how many these are.
FAILED: Final = "failed:"
FAILED_MODELS: Final = "failed_models"
# Chunks whose answers were void; there while they are still to be sent again.
VOID: Final = "void"
RESEND: Final = "resend"
