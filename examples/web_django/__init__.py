"""A Django project whose views enqueue tasks that workers run.

pip install 'taquba[django]' gunicorn       # and django-tasks before Django 6
export STORE=./data
python -m examples.web_django.manage taquba_worker &      # as many as you like
gunicorn examples.web_django.wsgi --workers 4 --preload

curl -X POST localhost:8000/mails -d to=a@b.c -d text=hello
curl localhost:8000/mails/ID
"""
