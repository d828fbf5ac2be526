"""Several processes for one run, each with a loop of its own: one ledger, one view, one budget a host."""
