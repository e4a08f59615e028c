"""The segment format: how pages of a session database are stored for ever."""
