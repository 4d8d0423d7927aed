"""`python -m availability`, as `scripts/availability` calls it."""

from availability import command
from scripts.common import console

console.main(command.main)
