"""A backend for Django's tasks (`django.tasks`, or the package django-tasks before Django 6).

    INSTALLED_APPS = [..., "taquba.integrations.django"]
    TASKS = {
        "default": {
            "BACKEND": "taquba.integrations.django.TaqubaBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"url": "s3://bucket/prefix"},
        }
    }

Every process of the web server enqueues; ``manage.py taquba_worker`` runs the tasks. Start it as
often as you like: one of them works, the others take over when it ends.
"""

from taquba.integrations.django._backend import TaqubaBackend

__all__ = ["TaqubaBackend"]
