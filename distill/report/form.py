"""The form of what a model's metrics.json says, as far as a page is made of it; its numbers are looked up by key."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from data.errors import InputError
from data.kinds import kind_of


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Group(_Form):
    """Of clips: one length, one corpus."""

    clips: int
    ref_words: int
    wer: float | None = None


class _Clip(_Form):
    id: str
    alignment: str


class _Speech(_Form):
    kind: Literal["asr"] = "asr"
    data: str = ""
    by_duration: dict[Annotated[str, Field(pattern=r"^(over )?[0-9]{1,9} ")], _Group] = {}
    by_corpus: dict[str, _Group] = {}
    worst: list[_Clip] = []


class _Captions(_Form):
    kind: Literal["aac"] = "aac"
    data: str = ""
    not_computed: dict[str, str] = {}


class _Example(_Form):
    kind: str | None = None
    set: str | None = None
    id: str
    task: str
    reference: str | list[str] = Field(min_length=1)
    hypothesis: str
    sound: str = ""
    start_s: float = Field(0.0, ge=0)
    end_s: float = Field(0.0, ge=0)


class _Measured(_Form):
    at: str | None = None
    seconds: float | None = None
    batch: int | None = None
    tokens: int | None = None
    sound: str | None = None
    counts_features: bool | None = None


class _Metrics(_Form):
    model: str = ""
    recipe: str = ""
    checkpoint: str | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    data: str | None = None
    examples: list[_Example] = []
    measured: _Measured | None = None


def require_form(path: Path, metrics: dict) -> dict:
    """The metrics, if a page can be made of them.

    Raises:
        InputError: A value is of another kind than commands write there; names the file and the key.
    """
    sets = {name: ({"asr": _Speech, "aac": _Captions}[kind], ...) for name in metrics if (kind := kind_of(name))}
    try:
        create_model("Metrics", __base__=_Metrics, **sets).model_validate(metrics)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise InputError(f"{path}: key '{key}': {fault['msg']}; make it again with the command that wrote it") from None
    return metrics
