"""The node agent: who calls, what they may have, kept fresh."""
