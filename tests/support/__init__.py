"""What the suites share: helm (the one door to it), the component table, objects, the cluster and its services."""
