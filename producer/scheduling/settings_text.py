"""Says in words how a job is done, for its report: what was asked for, and what the settings are.

settings, options --job_settings--> texts by name; never a URL, which may have a password
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.priority import priority_name
from producer.scheduling.window import CHUNKS_PER_SLOT, MAX_BYTES

if TYPE_CHECKING:
    from producer.scheduling.chunk_sizer import ChunkSizer
    from producer.scheduling.job_options import JobSpec
    from worker_config.settings import Settings


def job_settings(settings: Settings, chunk_sizer: ChunkSizer, spec: JobSpec) -> dict[str, str]:
    """How an attached job is done, by the name of each choice."""
    options = spec.options
    chosen = "by what chunks take" if chunk_sizer.fixed_rows is None else str(chunk_sizer.fixed_rows)
    texts = {
        "store": spec.store,
        "chunk_rows": chosen,
        "compression": options.compression or "none",
        "window": f"{CHUNKS_PER_SLOT} chunks per slot, {MAX_BYTES // 2**20} MiB",
        "priority": priority_name(options.weight),
        "on_error": options.policy.on_error,
        "on_nonfinite": options.policy.on_nonfinite,
        "ordered": "yes" if options.ordered else "no, as chunks are answered",
        "spool folder": str(settings.spool or "none"),
        "data roots": ", ".join(map(str, settings.data_roots)) or "none",
        "kept for": f"{settings.job_ttl_seconds / 3600:g} h",
    }
    if options.policy.goes_on:
        texts["max_failed"] = _most(options.policy)
    if options.fail_together:
        texts["fail_together"] = "yes"
    return texts


def _most(policy: ErrorBudget) -> str:
    if policy.most_rows < math.inf:
        return f"{policy.most_rows:.0f} rows"
    return f"{100 * policy.most_share:g} % of the rows" if policy.most_share < 1 else "any number but all"
