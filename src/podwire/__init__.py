"""podwire: eBPF pod networking for Kubernetes. Node agent, CNI and command line."""

__version__ = "0.1.0"
