"""What policies say, as guards in front of a callee, and of who may be told of it. Pure."""
