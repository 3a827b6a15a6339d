"""A backend for Django's tasks (`django.tasks`, or the package django-tasks before Django 6).

    INSTALLED_APPS = [..., "taquba.integrations.django"]
    TASKS = {
        "default": {
            "BACKEND": "taquba.integrations.django.TaqubaBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"url": "s3://bucket/prefix"},
        }
    }

Every process enqueues tasks and reads their results; ``manage.py taquba_worker`` runs the tasks.
Start as many as you like: each of them runs tasks, and one of them owns the store.

The modules, top to bottom; each uses only those below it:

    management  where Django looks for commands
    _working    a process that runs tasks
    _running    the handler that runs tasks
    _backend    the backend: what Django calls to enqueue a task, and for its result
    _results    results of tasks: what the store keeps of one, and what Django shows of it
    _finding    tasks by their paths
    _handles    what this process has for each store: a producer, and a handle to look
    _tasks      django's tasks: part of Django since 6.0
    apps        the application that brings the command ``taquba_worker``
"""

from taquba.integrations.django._backend import TaqubaBackend

__all__ = ["TaqubaBackend"]
