"""The blocking client. `make generate` derives it from `_async`, all but `transport.py`."""
