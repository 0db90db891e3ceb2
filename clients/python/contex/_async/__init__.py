"""The asyncio client. `make generate` derives `_sync` from it, all but `transport.py`."""
