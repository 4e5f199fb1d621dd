"""Parts of ``scripts/bench.py``: the yardstick hub, the load drivers and the report."""
