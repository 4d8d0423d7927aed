"""What all scripts share: output and errors, paths, packages of the host."""
