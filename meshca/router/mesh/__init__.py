"""What objects mean together: services with their endpoints, routes, and who may call whom. Pure."""
