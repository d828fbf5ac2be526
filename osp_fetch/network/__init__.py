"""The world behind HTTP. Above this room no foreign exception exists and no range is inclusive."""
