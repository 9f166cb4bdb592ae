"""Leaderboards: a pure function of the records (`rows`), its statistics, and how it is written (`render`)."""
