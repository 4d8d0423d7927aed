"""What the suites share: calls of helm, the table of parts, rendered objects, the cluster and its services."""
