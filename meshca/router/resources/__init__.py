"""What a proxy gets of that, as resources of xDS. Pure."""
