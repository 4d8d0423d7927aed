"""Configuration of every user's server: what counts as activity. The hub gives all else as arguments."""

from jupyter_server.base.handlers import APIHandler

update_api_activity = APIHandler.update_api_activity


def update_by_changes(self: APIHandler) -> None:
    """Count requests that change something: a page that is open asks for kernels and terminals every few seconds, and saves its layout, whether anybody looks or not."""
    if self.request.method not in ("GET", "HEAD", "OPTIONS") and "/lab/api/workspaces" not in self.request.path:
        update_api_activity(self)


APIHandler.update_api_activity = update_by_changes
