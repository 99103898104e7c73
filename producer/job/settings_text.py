"""This module says in words how a job is done, for its report: what was asked for, and what the settings are.

settings, terms --job_settings--> texts by name; never a URL, which may have a password
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.window import CHUNKS_PER_SLOT, MAX_BYTES

if TYPE_CHECKING:
    from producer.scheduling.chunk_sizer import ChunkSizer
    from producer.scheduling.job_options import Terms
    from tasks.protocol.messages import StoreName
    from worker_config.settings import Settings


def job_settings(settings: Settings, chunk_sizer: ChunkSizer, store: StoreName, terms: Terms) -> dict[str, str]:
    """How an attached job is done, by the name of each choice."""
    chosen = "by what chunks take" if chunk_sizer.fixed_rows is None else str(chunk_sizer.fixed_rows)
    told = {
        "store": store,
        "chunk_rows": chosen,
        "compression": terms.compression or "none",
        "window": f"{CHUNKS_PER_SLOT} chunks per slot, {MAX_BYTES // 2**20} MiB",
        "on_error": terms.policy.on_error,
        "on_nonfinite": terms.policy.on_nonfinite,
        "ordered": "yes" if terms.ordered else "no, as chunks are answered",
        "spool folder": str(settings.spool or "none"),
        "data roots": ", ".join(map(str, settings.data_roots)) or "none",
        "kept for": f"{settings.job_ttl_seconds / 3600:g} h",
    }
    if terms.policy.goes_on:
        told["max_failed"] = _most(terms.policy)
    if terms.fail_together:
        told["fail_together"] = "yes"
    return told


def _most(policy: ErrorBudget) -> str:
    if policy.most_rows < math.inf:
        return f"{policy.most_rows:.0f} rows"
    return f"{100 * policy.most_share:g} % of the rows" if policy.most_share < 1 else "any number but all"
