"""What goes on, live, as a page for any browser: `celeriac dashboard`.

Redis --overview, once a tick--> values by key --feed, what changed--> events --page.js--> tables, pictures
buttons --token checked--> controls --> Redis, `celery control`
"""

from producer.dashboard.serve import Address, serve

__all__ = ["Address", "serve"]
