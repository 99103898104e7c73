"""The embedded system: a private Redis and a worker, gone with the `with` block or the process that wanted them."""

from producer.embedded.local import local, worker_command

__all__ = ["local", "worker_command"]
