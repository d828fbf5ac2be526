"""Contract suites: what every implementation and every fake of a protocol must do.

A suite is a class whose tests take one fixture. For a new store, ledger or transport, derive a class from the
suite, as `test_stores.py` and its siblings do, and provide that fixture.
"""
