"""Every error that Celeriac raises, as `worker_config.errors` defines them; to be caught by who calls us."""

from worker_config.errors import *  # noqa: F403 - the very same classes, all of them
