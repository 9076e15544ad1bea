import json

import pandas
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from data.errors import InputError
from data.rows.row import Row
from distill.scoring.submission import check_submission, submission_ids, write_submission


def row(number: int, name: str = "", tmp="x.wav") -> Row:
    return Row(f"id{number}", tmp, "", "asr", testset_id=name)


def test_what_is_written_passes_the_check(tmp_path):
    path = tmp_path / "submission_aac.csv"
    texts = ['a dog, "barking"', "", " two\nlines\u2028 ", "\u00e9t\u00e9", "null", "none of them"]
    rows = [row(i) for i in range(6)]
    ids = submission_ids(rows, "here")
    write_submission(path, ids, texts)
    assert ids == ["test0000", "test0001", "test0002", "test0003", "test0004", "test0005"]
    assert check_submission(path) == check_submission(path, rows) == 6
    assert path.read_text(encoding="utf-8").splitlines()[1:] == [
        'test0000,"a dog, ""barking"""',
        "test0001,.",
        "test0002,two lines",
        "test0003,\u00e9t\u00e9",
        "test0004,null .",
        "test0005,none of them",
    ]


def test_pandas_reads_every_text_that_is_written(tmp_path):
    texts = ["", " ", *sorted(STR_NA_VALUES), "a dog", "none"]
    write_submission(tmp_path / "s.csv", submission_ids([row(i) for i in range(len(texts))], "here"), texts)
    check_submission(tmp_path / "s.csv")
    assert not pandas.read_csv(tmp_path / "s.csv")["text"].isna().any()
    for text in STR_NA_VALUES - {""}:
        (tmp_path / "bad.csv").write_text(f"testset_id,text\ntest0000,{text}\n")
        with pytest.raises(InputError, match="as no text"):
            check_submission(tmp_path / "bad.csv")


def test_ids_are_the_annotations_own_all_or_none():
    assert submission_ids([row(0, "test0009"), row(1, "test0001")], "here") == ["test0009", "test0001"]
    for rows, message in (
        ([row(0, "test0001"), row(1)], 'here, row "id1": testset_id "" is not'),
        ([row(0, "test0001"), row(1, "test0001")], 'row "id1": testset_id "test0001" is there twice'),
        ([row(0, "Test0001")], "is not"),
        ([row(0, "test00010")], "is not"),
    ):
        with pytest.raises(InputError, match=message):
            submission_ids(rows, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the columns must be exactly testset_id,text, not nothing"),
        ("text,testset_id\na,test0000\n", "line 1: the columns"),
        ("testset_id,text,more\n", "line 1: the columns"),
        ("testset_id,text\n", "no rows"),
        ("testset_id,text\ntest0000,a, b\n", "line 2: 3 fields"),
        ("testset_id,text\ntest0000\n", "line 2: 1 fields"),
        ("testset_id,text\ntest0000,a\n\ntest0001,b\n", "line 3: 0 fields"),
        ("testset_id,text\ntest000,a\n", 'line 2: the id "test000" is not'),
        ("testset_id,text\n0,a\n", 'line 2: the id "0" is not'),
        ("testset_id,text\ntest0000,a\ntest0000,b\n", 'line 3: the id "test0000" is in line 2 already'),
        ("testset_id,text\ntest0000,\n", 'line 2: the text of "test0000" is empty'),
        ('testset_id,text\ntest0000," "\n', "is empty"),
        ("testset_id,text\ntest0000,NaN\n", 'line 2: pandas reads "NaN" as no text; write "NaN ."'),
        ("testset_id,text\ntest000\u0661,a\n", "line 2: the id .* is not"),
        ('testset_id,text\ntest0000,"a\n', "cannot be read as CSV"),
        ("testset_id,text\ntest0000,a\n", "1 of 2 clips of the annotation are missing .*test0001"),
        ("testset_id,text\ntest0000,a\ntest0001,b\ntest0002,c\n", "1 are not in it .*test0002"),
    ],
)
def test_a_fault_is_named_with_its_line(command, tmp_path, text, message):
    path = tmp_path / "submission.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        check_submission(path, [row(0), row(1)])


def test_the_script_checks_a_file_against_an_annotation_without_its_sounds(command, tmp_path):
    (tmp_path / "s.csv").write_text("testset_id,text\ntest0003,a\n")
    check = ["scripts/validate_submission.py", tmp_path / "s.csv"]
    rows = [{"path": "gone.wav", "task": "asr", "testset_id": "test0003"}]
    (tmp_path / "a.json").write_text(json.dumps({"annotation": rows}))
    status, out, err = command(
        "scripts/validate_submission.py", tmp_path / "s.csv", "--annotation", tmp_path / "a.json"
    )
    assert status == 0 and "1 rows, as they should be\n" in out, err
    status, out, _ = command(*check)
    assert status == 0 and "completeness was not checked" in out
    (tmp_path / "a.json").write_text(json.dumps({"annotation": [rows[0], {**rows[0], "testset_id": "test0004"}]}))
    status, _, err = command(*check, "--annotation", tmp_path / "a.json")
    assert status == 2 and err.startswith("error: ") and "test0004" in err
