"""What only the lab needs: node image, Kubernetes build, locally packed snap, workload images, underlay."""
