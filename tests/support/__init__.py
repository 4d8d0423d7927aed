"""What the suites share: helm (the one door to it), the table of parts, objects, the cluster and its services."""
