"""The output folder: partials, finished files, the ledger. A name appears only once its file is right."""
