from __future__ import annotations

import os

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from taquba import OwnerUnreachable

try:
    from django.tasks.exceptions import TaskResultDoesNotExist
except ImportError:  # before Django 6
    from django_tasks.exceptions import TaskResultDoesNotExist

from examples.web_django.tasks import send_mail


@csrf_exempt
@require_POST
def post_mail(request: HttpRequest) -> JsonResponse:
    result = send_mail.enqueue(to=request.POST["to"], text=request.POST["text"])
    return JsonResponse({"id": result.id, "pid": os.getpid()}, status=202)


@require_GET
def look(request: HttpRequest, result_id: str) -> JsonResponse:
    try:
        result = send_mail.get_result(result_id)
    except TaskResultDoesNotExist:
        return JsonResponse({"error": "no such mail, or it was sent long ago"}, status=404)
    except OwnerUnreachable:
        # No worker has taken it yet.
        return JsonResponse({"status": "READY"})
    shown = {"status": result.status, "attempts": result.attempts}
    if result.is_finished:
        shown["worker"] = result.worker_ids[-1]
    if result.status == "SUCCESSFUL":
        shown["file"] = result.return_value
    return JsonResponse(shown)


urlpatterns = [path("mails", post_mail), path("mails/<result_id>", look)]
