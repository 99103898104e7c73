"""One detached job's channels to all shards, each of which has a part of it.

shard --> the channel of its part; questions to all of them by the same connections
"""

from __future__ import annotations

from producer.broker.broker_channel import BrokerChannel
from producer.broker.shard_clients import ShardClients
from tasks.protocol.seal import Sealer
from worker_config.broker import shard_urls
from worker_config.settings import Settings


class PartChannels:
    """Used by one thread; a shard that nothing is asked of is not connected to.

    With `waits` each shard is waited for as a single server is: whoever leaves a job needs all of them.

    Attributes:
        shards: to ask all of them.
        sealer: of messages and records, which are sealed alike for all shards.
    """

    def __init__(self, settings: Settings, job_id: str, *, waits: bool = False) -> None:
        urls = shard_urls(str(settings.broker_url))
        of_several = len(urls) > 1 and not waits
        self._channels = [BrokerChannel(url, settings, job_id, one_of_several=of_several) for url in urls]
        self.shards: ShardClients = ShardClients(urls, [channel.client for channel in self._channels])
        self.sealer: Sealer = self._channels[0].sealer

    def __getitem__(self, shard: int) -> BrokerChannel:
        return self._channels[shard]

    def room(self, deal: tuple[int, ...]) -> float:
        """Bytes that a job may have that is dealt so, for each of these shards to have room for its share."""
        return min(self[shard].redis_room() * len(deal) / deal.count(shard) for shard in set(deal))

    def close(self) -> None:
        """Close the connections."""
        self.shards.close()
