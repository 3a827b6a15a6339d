import os

# An example: a real project has a secret, and names its hosts.
SECRET_KEY = "example"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "examples.web_django.urls"
USE_TZ = True

INSTALLED_APPS = ["taquba.integrations.django", "examples.web_django"]
TASKS = {
    "default": {
        "BACKEND": "taquba.integrations.django.TaqubaBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"url": os.environ.get("STORE", "./data"), "max_attempts": 5},
    }
}
OUTBOX = os.environ.get("OUTBOX", "outbox")
