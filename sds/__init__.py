"""Streams: how identity and routes reach a proxy or a workload over gRPC. Knows no CA. Re-exports nothing."""
