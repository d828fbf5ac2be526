"""Observers of a run: they draw, print or write what the events say, and the engine waits for none."""
