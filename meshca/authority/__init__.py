"""The kernel: which authorities there are, when they change, and what is signed. No gRPC, no SQL, no clock of its own."""
