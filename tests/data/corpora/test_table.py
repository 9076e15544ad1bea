import json
import re

import pytest

from data.corpora.lengths import OUTSIDE
from data.corpora.prepare import MISSING, TEXTLESS
from data.errors import InputError
from tests.data.corpora.conftest import table, written


def test_tables(root, sound, tmp_path):
    sound("a.wav")
    table(root / "mine.csv", ["path", "text", "task", "split", "references"], ["a.wav", "x", "aac", "test", "x|y"])
    (root / "more.jsonl").write_text(
        json.dumps({"path": str(root / "a.wav"), "text": "b", "task": "QA", "question": "Who?"}) + "\n\n"
    )
    (root / "tabs.tsv").write_text("path\ttext\ttask\na.wav\t1, 2\tasr\n")
    _, splits = written("table", root, tmp_path)
    assert splits["test"][0].references == ("x", "y")
    assert splits["more"][0].question == "Who?" and splits["tabs"][0].text == "1, 2"


def test_what_is_not_read_is_told_in_one_line(root, sound, tmp_path, capsys):
    sound("a.wav")
    row = {"path": "a.wav", "text": "b", "task": "asr", "x\ny": 1, "\u2028": 2}
    (root / "more.jsonl").write_text(json.dumps(row) + "\n")
    written("table", root, tmp_path)
    assert capsys.readouterr().err == f"note: {root}/more.jsonl: not read: x\\ny, \\u2028\n"


def test_blanks_behind_commas_are_no_values(root, sound, tmp_path):
    sound("a.wav")
    (root / "a.csv").write_text('path, text, task, corpus\na.wav, " b, c", asr, mine\n')
    (root / "b.csv").write_text("path;text;task;corpus\na.wav; b, c; asr; mine\n")
    (root / "c.csv").write_text("path,text,task,corpus\na.wav, b,asr,mine\n")
    splits = written("table", root, tmp_path)[1]
    assert [(row.text, row.task, row.corpus) for name in "abc" for row in splits[name]] == [
        ("b, c", "asr", "mine"),
        ("b, c", "asr", "mine"),
        ("b", "asr", "mine"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "path,txt,task\na,b,c\n", "no column 'text'; it has path, txt, task"),
        ("a.csv", "path,text,task\na,b\n", "line 2: too short, it has no 'task'"),
        ("a.csv", "path,text,task\na.wav,hello, there,asr\n", "line 2: 4 values for 3 columns; put a value"),
        ("a.csv", "path,task,text,text\na,b,c,d\n", "the column 'text' is there twice"),
        ("a.csv", 'path,text,task\na.wav,"hello,asr\nb.wav,x,asr\n', "cannot be read as CSV"),
        ("a.csv", 'path,text,task\na.wav,"he" said,asr\n', "line 2: cannot be read as CSV"),
        ("a.csv", "path,text,task\n,b,asr\n", "line 2: no 'path'"),
        ("a.csv", "path,text,task\na.wav,b,\n", "line 2: no 'task'"),
        ("a.csv", "path,text,task,start\na.wav,b,asr,soon\n", "line 2: 'start' must be seconds"),
        ("a.csv", "path,text,task,duration\na.wav,b,asr,1:30\n", "line 2: 'duration' must be seconds"),
        ("a.csv", "path,text,task,end\na.wav,b,asr,nan\n", "line 2: 'end' must be seconds"),
        ("a.csv", "path,text,task,end\na.wav,b,asr,-1\n", "line 2: 'end' must be seconds"),
        ("a.csv", "path,text,task,split\na.wav,b,asr,../up\n", r'line 2: the split "\.\./up" must be letters'),
        ("a.csv", "path,text,task,split\na.wav,b,asr,..\n", r'line 2: the split "\.\." must be letters'),
        ("a.csv", "path,text,task,corpus\na.wav,b,asr,/etc\n", 'line 2: the corpus "/etc" must be letters'),
        ("a.csv", "path,text,task\na.wav,b,../asr\n", 'line 2: the task "../asr" must be letters'),
        ("my list.csv", "path,text,task\na.wav,b,asr\n", 'line 2: the split "my list" must be letters'),
        ("a.jsonl", '{"path": "a"}\n', r"line 1: must be an object with path, text and task \(no 'text'\)"),
        ("a.jsonl", '{"path": "a", "text": 3, "task": "asr"}\n', "line 1: 'text' must be a string"),
        (
            "a.jsonl",
            '\n{"path": "a", "text": "x", "task": "asr", "references": ["x", 3]}\n',
            "line 2: 'references' must",
        ),
        ("a.jsonl", '{"path": "a", "text": "x", "task": "asr", "id": 1.5}\n', "line 1: 'id' must be"),
        ("a.jsonl", '{"path": "a", "text": "x", "task": "asr", "split": 3}\n', "line 1: 'split' must be a string"),
        ("a.jsonl", '{"path": "a.wav", "text": "\\ud800", "task": "asr"}\n', "line 1: .*half a character"),
        ("a.jsonl", '{"path": "a.wav", "text": "x", "text": "y", "task": "asr"}\n', 'line 1: .*"text" is there twice'),
        ("a.jsonl", '{"path": "a.wav", "text": "x\\u0000", "task": "asr"}\n', "line 1: holds a NUL"),
        ("a.csv", "path,text,task\na.wav,x\0y,asr\n", "line 2: holds a NUL"),
        ("a.csv", "path,text,task,,\na.wav,hello, there,asr,\n", "line 2: 5 values for 3 columns; put a value"),
        # An unquoted comma, and a value that is missing elsewhere: as many values as columns.
        (
            "a.csv",
            "path,text,task,corpus\na.wav,b,asr,c\na.wav,hello, there,asr\n",
            "line 3: 'task' begins with a blank",
        ),
        ("a.csv", "path,task,text,split\na.wav,asr,hello, there\n", "line 2: 'split' begins with a blank; put a text"),
        ("a.csv", "path,text,task,corpus\na.wav,hello,there,asr,\n", "line 2: 5 values for 4 columns; put a value"),
        ("a.jsonl", "[" * 100_000, "line 1: must be an object, and is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: must be an object, not list"),
        ("a.jsonl", "{\n", "line 1: must be an object, and is not JSON"),
        ("a.csv", "", "no column 'path'; it has none"),
        ("a.txt", "hello", "no rows of table; looked for"),
    ],
)
def test_tables_with_faults(root, sound, tmp_path, name, content, told):
    sound("a.wav")
    (root / name).write_text(content)
    with pytest.raises(InputError, match=told) as error:
        written("table", root, tmp_path)
    assert "\n" not in str(error.value) and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "encoding", "texts"),
    [
        ("a.csv", "path,text,task\r\na.wav,hello,asr\r\n\r\n", "utf-8-sig", ["hello"]),
        ("a.csv", "path,text,task\na.wav,héllo,asr\n", "utf-16", ["héllo"]),
        ("a.csv", "path,text,task\na.wav,hello,asr\n", "utf-16-be", ["hello"]),
        ("a.CSV", "path;text;task\na.WAV;hello, there;asr\n", "utf-8", ["hello, there"]),
        ("a.csv", '"path";"text";"task"\n"a.wav";"hello; there";asr\n', "utf-8", ["hello; there"]),
        ("a.csv", "path\ttext\ttask\na.wav\thello, there\tasr\n", "utf-8", ["hello, there"]),
        ("a.csv", 'path, text, task\na.wav, "hello, there", asr\n', "utf-8", ["hello, there"]),
        ("a.csv", 'path,text,task,,\na.wav,"one\ntwo",asr,,,\n', "utf-8", ["one\ntwo"]),
        ("a.csv", f"path,text,task\na.wav,{'hello ' * 30_000}end,asr\n", "utf-8", ["hello " * 30_000 + "end"]),
        (
            "a.tsv",
            'path\ttext\ttask\na.wav\t"a ""b"", c"\tasr\na.wav\t"Hello," she\tasr\n',
            "utf-8",
            ['a "b", c', '"Hello," she'],
        ),
        ("a.jsonl", '{"path": "a.wav", "text": "x\u2028y", "task": "asr"}\n', "utf-8-sig", ["x\u2028y"]),
        ("a.JSONL", '{"path": "a.wav", "text": "x", "task": "asr", "id": 0, "split": null}\n', "utf-16", ["x"]),
    ],
)
def test_tables_as_spreadsheets_write_them(root, sound, tmp_path, name, content, encoding, texts):
    sound("a.wav")
    (root / name).write_bytes(content.encode(encoding))
    _, splits = written("table", root, tmp_path)
    assert [row.text for row in splits["a"]] == texts


def test_stretches(root, sound, tmp_path):
    sound("a.wav", 2)
    lines = [
        "a.wav,first,asr,0,1,99",
        "a.wav,second,asr,1,2,",
        "a.wav,rest,asr,0.5,,",
        "a.wav,gone,asr,3,4,",
        "a.wav,b,asr,2,1,",
    ]
    (root / "a.csv").write_text("\n".join(["path,text,task,start,end,duration", *lines]))
    made, splits = written("table", root, tmp_path)
    assert [(row.text, row.start_s, row.end_s, row.duration_s) for row in splits["a"]] == [
        ("first", 0.0, 1.0, 1.0),
        ("second", 1.0, 2.0, 1.0),
        ("rest", 0.5, 0.0, 1.5),
    ]
    assert made.left_out == {OUTSIDE: 2}


def test_columns_that_are_not_read_are_told_once(root, sound, tmp_path, capsys):
    sound("a.wav")
    (root / "a.csv").write_text("path,text,task,refernces,speaker\n" + "a.wav,x,asr,y,z\n" * 2)
    rows = [{"path": "a.wav", "text": "x", "task": "asr"} | more for more in ({}, {"Duration": 1}, {"Duration": 1})]
    (root / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    written("table", root, tmp_path)
    told = capsys.readouterr().err
    assert told == f"note: {root}/a.csv: not read: refernces, speaker\nnote: {root}/b.jsonl: not read: Duration\n"


def test_ids_of_ones_own(root, sound, tmp_path):
    sound("a.wav")
    (root / "a.csv").write_text("path,text,task,id\na.wav,x,asr,7\na.wav,x,asr,7\na.wav,y,asr,8\n")
    made, splits = written("table", root, tmp_path)
    assert [row.id for row in splits["a"]] == ["table/7", "table/8"] and made.left_out.total() == 1
    (root / "a.csv").write_text("path,text,task,id\na.wav,x,asr,7\na.wav,y,asr,7\n")
    with pytest.raises(InputError, match=r'a\.csv, line 3: id "7" is there twice'):
        written("table", root, tmp_path)


def test_lists_of_one_name_in_two_folders(root, sound, tmp_path):
    sound("a.wav")
    for folder in ("one", "two"):
        (root / folder).mkdir()
        (root / folder / "train.csv").write_text(f"path,text,task\na.wav,{folder},asr\n")
    _, splits = written("table", root, tmp_path)
    assert [(row.id, row.text) for row in splits["train"]] == [
        ("table/one/train/0", "one"),
        ("table/two/train/0", "two"),
    ]


def test_a_sound_outside_of_a_root_that_is_a_link(root, sound, tmp_path):
    sound("../elsewhere/b.wav")
    sound("deep/a.wav")
    (tmp_path / "link").symlink_to(root / "deep")
    outside = tmp_path / "elsewhere" / "b.wav"
    (root / "deep" / "a.csv").write_text(f"path,text,task\na.wav,x,asr\n{outside},y,asr\n")
    _, splits = written("table", tmp_path / "link", tmp_path)
    assert all(row.path.is_file() for row in splits["a"]) and splits["a"][1].path.resolve() == outside.resolve()


def test_rows_are_named_by_the_line_that_an_editor_shows(root, sound, tmp_path):
    """Empty lines and texts over several lines count; a row is at the line that it begins on."""
    sound("a.wav")
    (root / "a.csv").write_text('path,text,task\n\na.wav,"one\ntwo",asr\nnone.wav,"x\ny",asr\n')
    (root / "b.tsv").write_text("path\ttext\ttask\na.wav\tx\tasr\na.wav\t\tasr\n")
    (root / "c.jsonl").write_text('\n{"path": "a.wav", "text": "x", "task": "asr", "start": 1e3, "end": 2e3}\n')
    made, _ = written("table", root, tmp_path)
    assert made.first == {
        MISSING: f"a/1 ({root}/a.csv, line 5)",
        TEXTLESS: f"b/1 ({root}/b.tsv, line 3)",
        OUTSIDE: made.first[OUTSIDE],
    }
    assert re.fullmatch(rf"c/0 \(1000 to 2000 s of .* s; {root}/c.jsonl, line 2\)", made.first[OUTSIDE])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('a.wav,"one\ntwo",', "line 3: no 'task'"),
        ('a.wav,"one\ntwo', "line 3: cannot be read as CSV"),
        ('a.wav,"one\ntwo",asr,x', "line 3: 4 values"),
    ],
)
def test_a_row_over_several_lines_is_where_it_begins(root, sound, tmp_path, row, told):
    sound("a.wav")
    (root / "a.csv").write_text(f"path,text,task\na.wav,x,asr\n{row}\n")
    with pytest.raises(InputError, match=rf"a\.csv, {told}"):
        written("table", root, tmp_path)
