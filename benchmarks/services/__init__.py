"""Ten thousand services: how soon they are served, and what they cost, with podwire and with kube-proxy."""
