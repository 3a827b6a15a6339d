from __future__ import annotations

import os

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from examples.web_django.tasks import send_mail


@csrf_exempt
@require_POST
def post_mail(request: HttpRequest) -> JsonResponse:
    result = send_mail.enqueue(to=request.POST["to"], text=request.POST["text"])
    return JsonResponse({"id": result.id, "pid": os.getpid()}, status=202)


urlpatterns = [path("mails", post_mail)]
