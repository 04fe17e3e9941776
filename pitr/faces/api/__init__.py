"""The HTTP face: routes that ask services, problems for errors, metrics."""

from pitr.faces.api.factory import make_api

__all__ = ["make_api"]
