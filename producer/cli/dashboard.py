"""`celeriac dashboard`: what goes on, live, as a page for any browser."""

from __future__ import annotations

import click

from producer.broker.shard_clients import for_each
from producer.cli.options import required_broker_option
from producer.cli.viewing import viewing
from tasks.transport.connection import ping
from worker_config.broker import redacted
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.foreign_errors import import_optional


@click.command()
@required_broker_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any port that is free."
)
def dashboard(broker_url: str, host: str, port: int) -> None:
    """Show what goes on, live, as a page for any browser: jobs, slots, models, failures.

    Whoever reaches the page may look. Buttons to cancel jobs, change priorities, and drain or reload workers need the
    token in the printed address. Ctrl-C ends the page alone.
    """
    for module in ("starlette", "uvicorn"):
        import_optional(module, "dashboard", "the dashboard")
    from producer.dashboard import Address, serve

    try:
        for_each(broker_url, ping)
    except BrokerRefusedError:
        raise
    except BrokerError as error:
        click.echo(f"celeriac: {error} The page waits for it.", err=True)

    def ready(address: str) -> None:
        click.echo(f"dashboard of {redacted(broker_url)}: {address}")
        if not Address(host, port).is_local:
            click.echo("celeriac: other machines may look, and the connection is not encrypted", err=True)

    with viewing() as viewer:
        serve(broker_url, viewer, Address(host, port), ready)
