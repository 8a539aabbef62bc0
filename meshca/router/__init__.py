"""The routing xDS server: Istio's and Gateway API's kinds in; listeners, routes, clusters and endpoints out, in terms of identities.

It is an ordinary workload: it gets its SVID from the Workload API and knows nothing of the CA.
"""
