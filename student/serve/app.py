"""The server's routes behind its gate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from student.serve import chat, page, transcriptions
from student.serve.about import peak_bytes
from student.serve.errors import ApiError, error_response, internal, json_response
from student.serve.gate import Gate
from student.serve.metrics import CONTENT_TYPE
from student.serve.service import Service
from student.serve.settings import ServeSettings


def app_of(service: Service) -> FastAPI:
    """The application; while it runs, the models write."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    # Its own pages would load what they show from another host.
    app = FastAPI(lifespan=running, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(transcriptions.routes(service))
    app.include_router(chat.routes(service))
    app.include_router(page.routes())

    @app.get("/v1/models")
    async def models() -> Response:
        listed = [_model(service, name) for name in service.models]
        return json_response({"object": "list", "data": listed, "server": _server(service.settings)})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.model(name)
        return json_response(_model(service, name))

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        service.places.require_open()
        return json_response({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    app.add_exception_handler(ApiError, _refused)
    for status in (400, 404, 405):
        app.add_exception_handler(status, _no_such)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Gate, settings=service.settings, places=service.places, metrics=service.metrics)
    return app


def _model(service: Service, name: str) -> dict:
    model = service.models[name]
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "salmonn-distill",
        "tasks": {task: {"trained": use.trained} for task, use in model.usage.tasks.items()},
        "about": service.about[name],
    }


def _server(settings: ServeSettings) -> dict:
    return {**settings.model_dump(include={"max_megabytes", "max_seconds"}), "peak_memory_bytes": peak_bytes()}


async def _refused(request: Request, error: ApiError) -> Response:
    return error_response(error)


async def _no_such(request: Request, error: Exception) -> Response:
    """What FastAPI itself refuses: paths and methods that there are not, and forms that are none."""
    status, detail = getattr(error, "status_code", 400), getattr(error, "detail", "")
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    return error_response(
        ApiError(status, f"{request.method} {request.url.path}: {detail}", code=codes.get(status, "invalid_request"))
    )


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(internal())
