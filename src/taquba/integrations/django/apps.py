"""The application that brings the command ``taquba_worker``."""

from django.apps import AppConfig


class TaqubaConfig(AppConfig):
    """taquba, as an application of Django."""

    name = "taquba.integrations.django"
    label = "taquba"
