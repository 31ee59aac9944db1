"""A Django site of async and sync views, on SQLite."""
