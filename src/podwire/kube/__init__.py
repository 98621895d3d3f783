"""The Kubernetes API as the agent needs it: a client and a list+watch of Nodes."""
