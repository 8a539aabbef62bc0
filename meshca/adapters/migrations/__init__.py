"""The steps from an empty database to the schema of today, one module each; a released step never changes."""
