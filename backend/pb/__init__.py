"""Generated from `backend.proto` by `scripts/generate_proto.py`; committed, and checked for freshness."""
