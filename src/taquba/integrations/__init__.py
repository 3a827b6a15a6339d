"""taquba in web frameworks; each module needs its framework.

The modules, top to bottom; each uses only those below it:

    django     a backend for Django's tasks (`django.tasks`
    starlette  Starlette and FastAPI: every process of the server takes part in a service
"""
