"""The node agent: addresses, endpoints, CNI requests, desired state, reconciler, REST API and health."""
