"""How files are fetched. Knows the protocols of `model`, and no adapter that fulfils them."""
