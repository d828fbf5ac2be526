"""Where entries come from: link files, tables, lists, the Hugging Face Hub.

A source is a function that yields rows; `resolve.resolve` finds the one that a SOURCE means.
"""
