"""The programs that the Makefile calls.

bare/      Kubernetes and the images on a bare Linux machine
platform/  the chart on any cluster: installation, demo, images for a mirror
harness/   the repository's own tools: Python environment, generated files, benchmark
common/    what these three share

A program is a module with a launcher of the same job in this folder. Imports run harness, platform → bare → common.
Modules are imported as `scripts.…` from the root of the repository; this folder itself is never on `sys.path`, where
`platform/` would hide Python's own module of that name.

Standard library only, save where a module says otherwise: this code runs before anything is installed.
"""
