"""The chart on any cluster."""
