"""Map and reduce over a gateway: a master and a worker that offer the same API, so that masters stack in tiers."""
