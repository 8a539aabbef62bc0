"""The xDS protocol engine, for any resource type."""
