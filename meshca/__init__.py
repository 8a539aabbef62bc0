"""meshca: the certificate authority that a mesh is built around. Re-exports nothing."""
