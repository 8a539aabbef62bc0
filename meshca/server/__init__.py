"""The CA server: what it keeps, what administrators may ask, what it does by the clock."""
