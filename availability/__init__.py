"""Availability as a client sees it: constant load on every public endpoint while parts restart, fail and change.

clients.py sends the load to what endpoints.py finds; events.py and machine.py say what happens meanwhile; measurement.py counts;
prometheus.py asks for the platform's own figures; judge.py compares with the goals; report.py and plot.py write.
"""
