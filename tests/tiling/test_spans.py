"""A slide cut span by span gives the store that is cut in one go, whoever does which span."""
