"""A real Kubernetes and the platform's images on a bare Linux machine, from package registries alone."""
