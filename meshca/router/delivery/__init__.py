"""How a proxy is brought from one configuration to the next, decided from its answers."""
