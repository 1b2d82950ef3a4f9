"""The live page: a small web server beside a session. It listens like any other app and is never in the engine's way."""


class DashboardError(Exception):
    """The page cannot be served as asked. The text is one line for people: cause and cure."""
