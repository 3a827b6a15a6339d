"""A backend for Django's tasks (`django.tasks`, or the package django-tasks before Django 6).

    INSTALLED_APPS = [..., "taquba.integrations.django"]
    TASKS = {
        "default": {
            "BACKEND": "taquba.integrations.django.TaqubaBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"url": "s3://bucket/prefix"},
        }
    }

Every process of the web server enqueues; ``manage.py taquba_worker`` runs the tasks. Start as many
as you like: one of them runs the tasks, and the others stand by to take over.

The modules, top to bottom; each uses only those below it:

    management  where Django looks for commands
    _running    the handler that runs tasks
    _backend    the backend: what Django calls to enqueue a task
    _producers  one producer for each store that this process enqueues into
    _tasks      django's tasks: part of Django since 6.0
    apps        the application that brings the command ``taquba_worker``
"""

from taquba.integrations.django._backend import TaqubaBackend

__all__ = ["TaqubaBackend"]
