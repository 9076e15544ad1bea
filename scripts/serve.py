"""Serves trained models, teacher or student, as OpenAI's API has it: transcripts, captions, answers.

python scripts/serve.py [--model runs/kd_mini/model] [--model FOLDER2] [--port 8000] [--api-key KEY]
curl http://127.0.0.1:8000/v1/audio/transcriptions -F model=kd_mini -F file=@speech.wav
"""

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.paths import resolve
from data.settings import settings_of

with redirect_stdout(sys.stderr):  # DeepSpeed says which device it found, as it is imported
    from student.serve.server import bound, serve
    from student.serve.service import Service, names_of
    from student.serve.settings import ServeSettings
    from student.use.audio_lm import AudioLM
    from student.use.command import require_asked
    from teacher.device import prepare_process


def main() -> None:
    known = {name: (field.description, field.default) for name, field in ServeSettings.model_fields.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, action="append", metavar="FOLDER", help="a run's model folder; may be given again"
    )
    for name, kind in (
        ("host", str),
        ("port", int),
        ("max_queue", int),
        ("max_megabytes", float),
        ("max_seconds", float),
    ):
        said, value = known[name]
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=value, metavar="N", help=f"{said} (default: %(default)s)")
    key = "what every request has to bring; better in $SALMONN_API_KEY, as others see a command's words"
    parser.add_argument("--api-key", default=os.environ.get("SALMONN_API_KEY"), metavar="KEY", help=key)
    arguments = parser.parse_args()
    settings = settings_of(ServeSettings, arguments)
    folders = arguments.model or [resolve("runs/kd_mini/model")]
    for folder in folders:
        require_asked("transcribe", "", folder)
    models = names_of(folders)
    listening = bound(settings)
    prepare_process()
    with redirect_stdout(sys.stderr):
        service = Service({name: AudioLM.load(folder) for name, folder in models.items()}, settings)
    sys.exit(serve(service, listening))


if __name__ == "__main__":
    run_cli(main)
