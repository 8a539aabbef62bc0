"""One file for each implementation of a port; only `wiring` picks among them."""
