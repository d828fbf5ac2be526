"""Open-Sora-Plan v1.1.0: what its datasets are called and where they come from."""
