"""The capture workers: camera, microphone, transcriber. Each is a process of its own; none imports torch."""


class CaptureError(Exception):
    """A source or recogniser cannot be used as asked. The text is one line for people: cause and cure."""
