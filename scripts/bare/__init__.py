"""A real Kubernetes and the platform's images on a bare Linux machine, from package registries alone.

Standard library only: this code runs before anything is installed.
"""
