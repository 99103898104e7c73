"""What can be a request rather than a job, and what its answer means: values in, values out.

data --rows_of--> rows --make--> element for Redis          Answer --outputs_of--> outputs, or the caller's error
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from producer.records.ledger import Ledger, warn_nonfinite
from producer.requests.targets import Target
from producer.rows.drop_rows import drop_rows
from producer.rows.read_answer import part_of, read_outputs
from producer.rows.returned import Form
from producer.rows.source import BatchSource, Source
from producer.scheduling import model_pinning
from producer.scheduling.admission import check_fits
from producer.scheduling.error_budget import ErrorBudget
from producer.sources.arrays import ArraySource
from producer.sources.choose import for_models
from tasks.datasets.marked import unfed_of
from tasks.datasets.rows import Rows
from tasks.protocol import codec
from tasks.protocol.messages import WRITTEN_VERSION, Answer, ChunkMessage, Failure, InlineRef, ModelRef
from tasks.protocol.records import ModelInfo
from tasks.protocol.requests import MAX_REQUEST_BYTES, Head, Request, group_of, to_element
from tasks.protocol.seal import Sealer
from worker_config.errors import PayloadError, RequestTimeoutError, RowsFailedError

# Those of `submit` that a request knows.
_OPTIONS = {"on_error", "max_failed", "on_nonfinite"}


class NeedsJobError(Exception):
    """Only a job can do it, or tell what is wrong."""


def is_request(data: object, options: Mapping[str, Any]) -> bool:
    """Whether such data with such options of `submit` may be a request; what stands in files is a job."""
    return not isinstance(data, str | os.PathLike) and options.keys() <= _OPTIONS


def failing_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `make_policy` takes of the options."""
    return {"on_error": "raise", "max_failed": None, **options}


def rows_of(source: Source | BatchSource, infos: Sequence[ModelInfo], policy: ErrorBudget) -> Rows | None:
    """The rows as the model takes them, if they are few enough to be answered by themselves; None of what is a job."""
    # Whether something is a `Source` takes Python long to tell.
    if len(infos) != 1 or not isinstance(source, ArraySource | Source) or not infos[0].independent_rows:
        return None
    if not 1 <= source.rows <= infos[0].batch_rows:
        return None
    source = cast("Source", for_models(source, infos))
    rows, row_bytes = source.rows, max(source.row_bytes, model_pinning.output_row_bytes(infos))
    if rows * row_bytes > MAX_REQUEST_BYTES:
        return None
    take = getattr(source, "take_marked", source.take) if policy.goes_on else source.take
    taken: Rows = take(0, rows)
    return None if unfed_of(taken) else taken


def rows_for(target: Target, source: Source | BatchSource, policy: ErrorBudget) -> tuple[Rows, int]:
    """The rows for this target, and how many they are.

    Raises:
        NeedsJobError: they are not few enough, or nobody takes requests.
        InputError: they do not fit the model.
    """
    rows = rows_of(source, target.infos, policy)
    if rows is None or not target.queue:
        raise NeedsJobError
    check_fits(target.infos, rows)
    model_pinning.warn(target.infos)
    return rows, cast("Source", source).rows


def make(
    info: ModelInfo, rows: Any, count: int, policy: ErrorBudget, until: float | None, caller: str, sealer: Sealer
) -> tuple[str, bytes]:
    """A request's id, and what is put into the list of its model set; `until` is the time of its caller's limit.

    Raises:
        NeedsJobError: the rows do not travel so.
    """
    model = ModelRef(info.name, info.digest)
    try:
        payload = b"".join(codec.encode_parts(rows))
    except PayloadError:
        raise NeedsJobError from None
    if len(payload) > MAX_REQUEST_BYTES:
        raise NeedsJobError
    request = Request(secrets.token_hex(6), model, count, payload, policy.on_error, policy.on_nonfinite)
    timeout_ms = 0 if until is None else max(1, round(1_000 * (until - time.monotonic())))
    head = Head(request.id, group_of(model, policy.on_nonfinite, rows), count, timeout_ms, caller)
    return request.id, to_element(head, request, sealer)


def outputs_of(info: ModelInfo, answer: Answer, rows: int, policy: ErrorBudget, form: Form) -> Any:
    """What an answer of a model gives the caller, in the form that is asked for.

    Raises:
        NeedsJobError: the worker could not run it by itself.
        RequestTimeoutError: its time was up.
        RowsFailedError: rows have no prediction, and that is an error.
        MessageError: the answer does not fit.
    """
    if isinstance(answer, Failure):
        if answer.record.type == RequestTimeoutError.__name__:
            raise RequestTimeoutError(f"the request was not run: {answer.record.text}")
        raise NeedsJobError
    message = ChunkMessage(WRITTEN_VERSION, answer.job, 0, 0, rows, 1, answer.models, InlineRef(b""))
    part = part_of(answer, message, answer.failed_rows)
    if part.failed and policy.on_error == "raise":
        raise RowsFailedError(str(part.failed[0]))
    policy.check(part.failed_rows, rows)
    if not isinstance(answer.ref, InlineRef) or not answer.ref.payload:
        raise NeedsJobError  # nobody knows what outputs look like; or no row has any
    part = replace(part, outputs=read_outputs(answer.ref.payload, message))
    if policy.on_nonfinite == "warn" and any(part.nonfinite):
        inputs, outputs = part.nonfinite
        ledger = Ledger(rows, predicted=part.predicted_rows, nonfinite_inputs=inputs, nonfinite_outputs=outputs)
        warn_nonfinite(answer.job, ledger)
    lacks_rows = part.dropped or (part.failed and policy.on_error == "skip")
    part = drop_rows(part, with_failed=policy.on_error == "skip") if lacks_rows else part
    return form.of(part.outputs, part.numbers, model_pinning.output_name([info]))
