"""Every kind of file gives back the rows written; what is wrong with one is said in one message."""

import csv
import gzip
import json

import datasets
import numpy as np
import pandas as pd
import pytest

from assay.errors import DataError
from assay.examples import Example, read

ROWS = [
    {"id": "a", "text": "one\ntwo", "source": "s1", "label": 1},
    {"id": "b", "text": 'quoted "text", with commas', "source": "s2", "label": 0},
    {"id": "c", "text": "naïve \u202e bidi \x07 bell", "source": "s1", "label": 1},
]
EXPECTED = [Example(row["id"], {"text": row["text"]}, row["source"], row["label"]) for row in ROWS]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(source, **keywords):
    """The message with which reading is refused."""
    with pytest.raises(DataError) as caught:
        read(source, **keywords)
    assert caught.value.exit_code == 2
    return str(caught.value)


WRITERS = {
    "rows.jsonl": lambda path, rows: path.write_text(jsonl(rows)),
    "rows.ndjson": lambda path, rows: path.write_text(jsonl(rows)),
    "rows.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(jsonl(rows).encode())),
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=2)),
    "objects.json": lambda path, rows: path.write_text(jsonl(rows)),
    "rows.csv": lambda path, rows: pd.DataFrame(rows).to_csv(path, index=False),
    "rows.tsv": lambda path, rows: pd.DataFrame(rows).to_csv(path, index=False, sep="\t"),
    "rows.csv.gz": lambda path, rows: pd.DataFrame(rows).to_csv(path, index=False),
    "rows.parquet": lambda path, rows: pd.DataFrame(rows).to_parquet(path),
    "saved": lambda path, rows: datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_rows_written(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    examples = read(tmp_path / name)
    assert list(examples) == EXPECTED
    assert [examples[i] for i in range(3)] == EXPECTED
    assert examples.kind == "text"
    assert examples.origin == name


@pytest.mark.parametrize("name", WRITERS)
def test_rows_without_ids_are_named_after_the_file_and_their_place(tmp_path, name):
    WRITERS[name](tmp_path / name, [{"text": row["text"]} for row in ROWS])
    stem = name.split(".")[0]
    assert list(read(str(tmp_path / name)).ids) == [f"{stem}:1", f"{stem}:2", f"{stem}:3"]
    assert list(read(tmp_path / name, name="mine").ids) == ["mine:1", "mine:2", "mine:3"]


def test_equal_rows_stay_separate_examples(tmp_path):
    examples = read(written(tmp_path, "same.jsonl", jsonl([{"text": "again"}] * 3)))
    assert list(examples.ids) == ["same:1", "same:2", "same:3"]
    assert list(examples.texts) == ["again"] * 3


def test_json_lines_survive_marks_blank_lines_and_carriage_returns(tmp_path):
    content = b'\xef\xbb\xbf{"text": "first"}\r\n\r\n   \n{"text": "second"}\r\n{"text": "no end of line"}'
    examples = read(written(tmp_path, "odd.jsonl", content))
    assert list(examples.texts) == ["first", "second", "no end of line"]
    assert list(examples.ids) == ["odd:1", "odd:4", "odd:5"]


@pytest.mark.parametrize("name", ["long.jsonl", "long.csv", "long.txt"])
def test_very_long_texts_are_read_whole(tmp_path, name):
    text = "word " * 300_000 + "end"
    content = {"long.jsonl": jsonl([{"text": text}]), "long.csv": f'text\n"{text}"\n', "long.txt": text}[name]
    assert list(read(written(tmp_path, name, content)).texts) == [text]


def test_a_long_cell_leaves_the_limit_of_the_csv_module_alone(tmp_path):
    before = csv.field_size_limit(1000)
    try:
        read(written(tmp_path, "long.csv", f"text\n{'w' * 200_000}\n"))
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_completions_and_messages(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chats = read(written(tmp_path, "chat.jsonl", jsonl([{"messages": talk, "other": 1}])))
    assert chats.kind == "messages"
    assert chats[0].data == {"messages": talk}
    assert chats.texts[0] == "user: Hi\nassistant: Hello"
    pairs = read(written(tmp_path, "pair.jsonl", jsonl([{"prompt": "2+2=", "completion": "4"}])))
    assert pairs.kind == "completion"
    assert pairs[0].data == {"prompt": "2+2=", "completion": "4"}
    assert pairs.texts[0] == "2+2=4"


def test_messages_in_parquet(tmp_path):
    talk = [{"role": "user", "content": "Hi", "name": "Ann"}]
    pd.DataFrame({"messages": [talk, talk], "unused": [1, 2]}).to_parquet(tmp_path / "chat.parquet")
    assert read(tmp_path / "chat.parquet")[1].data == {"messages": [{"role": "user", "content": "Hi"}]}


def test_columns_can_be_named(tmp_path):
    rows = [{"q": "why?", "a": "because", "uid": 7, "topic": "x", "class": 2, "text": "ignored"}]
    examples = read(
        written(tmp_path, "qa.jsonl", jsonl(rows)),
        prompt="q",
        completion="a",
        id="uid",
        source_column="topic",
        label="class",
    )
    assert list(examples) == [Example("7", {"prompt": "why?", "completion": "because"}, "x", 2)]


def test_labels_keep_their_type_and_numbers_in_csv_become_numbers(tmp_path):
    labels = [3, "pos", 0.5, [0, 1], None, True]
    rows = [{"text": "t", "label": label} for label in labels]
    assert list(read(written(tmp_path, "l.jsonl", jsonl(rows))).labels) == labels
    cells = "text,label\nt,3\nt,-1\nt,2.50\nt,01\nt,\nt,pos\nt,1e5\n"
    assert list(read(written(tmp_path, "l.csv", cells)).labels) == [3, -1, 2.5, "01", None, "pos", "1e5"]


def test_plain_text_is_split_at_marks_or_else_at_blank_lines(tmp_path):
    marked = written(tmp_path, "m.txt", "One.\n\nStill one.\n<|endoftext|>\nTwo.<|endoftext|>Three.\n<|endoftext|>\n")
    assert list(read(marked).texts) == ["One.\n\nStill one.", "Two.", "Three."]
    assert list(read(marked).ids) == ["m:1", "m:2", "m:3"]
    plain = written(tmp_path, "p.txt", "\n\nOne\r\nmore.\r\n \r\n\r\nTwo.")
    assert list(read(plain).texts) == ["One\r\nmore.", "Two."]


def test_limit_reads_no_further(tmp_path):
    path = written(tmp_path, "half.jsonl", jsonl(ROWS[:2]) + "not JSON\n")
    assert list(read(path, limit=2)) == EXPECTED[:2]
    assert "limit is 0" in refused(path, limit=0)


def test_npz_holds_arrays(tmp_path):
    np.savez(tmp_path / "digits.npz", X=np.eye(3, dtype=np.float32), y=np.array([2, 0, 1]))
    examples = read(tmp_path / "digits.npz")
    assert examples.kind == "arrays"
    assert list(examples.ids) == ["digits:1", "digits:2", "digits:3"]
    assert list(examples.labels) == [2, 0, 1]
    assert examples[1].data["x"].tolist() == [0, 1, 0]


class Trap:
    """Leaves a file behind if somebody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_an_npz_file_is_refused_and_not_run(tmp_path):
    np.savez(tmp_path / "trap.npz", X=np.array([Trap(tmp_path / "sprung")], dtype=object))
    (tmp_path / "sprung").unlink(missing_ok=True)
    assert "cannot be read as an .npz file of numbers" in refused(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


# What bad input gets.


def test_missing_file(tmp_path):
    message = refused(tmp_path / "nowhere.jsonl")
    assert message == f"There is no file or folder '{tmp_path}/nowhere.jsonl'; expected data to read. Check the path."


def test_a_text_given_for_a_path():
    assert "There is no file or folder 'word word" in refused("word " * 2000)


def test_unknown_extension(tmp_path):
    message = refused(written(tmp_path, "rows.xlsx", "x"))
    assert "unknown kind of file '.xlsx'" in message
    assert ".jsonl" in message


def test_folder_that_is_no_dataset(tmp_path):
    assert "a folder without a usable state.json" in refused(tmp_path)
    written(tmp_path, "state.json", '{"_data_files": [{"filename": "../outside.arrow"}]}')
    assert "'outside.arrow' that state.json lists is missing" in refused(tmp_path)


def test_folder_with_several_splits_offers_one(tmp_path):
    one = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"test": one, "train": one}).save_to_disk(tmp_path / "both")
    assert "several splits (test, train); give the folder of one" in refused(tmp_path / "both")
    assert list(read(tmp_path / "both" / "train")) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.csv", ""), ("a.csv", "text\n"), ("a.txt", "\n \n")],
)
def test_no_rows(tmp_path, name, content):
    message = refused(written(tmp_path, name, content))
    assert str(tmp_path / name) in message
    assert "is empty" in message or "holds no rows" in message


def test_malformed_line_names_file_line_and_start(tmp_path):
    bad = '{"text": "cut \x1b[31m\u202e' + "x" * 200
    path = written(tmp_path, "bad.jsonl", jsonl(ROWS[:1]) + "\n" + bad + "\n")
    message = refused(path)
    assert message.startswith(f"{path} line 3 is not valid JSON (Invalid control character at at column 15): ")
    shown = message.split("): ", 1)[1].split("\n")[0]
    assert shown == '{"text": "cut \\x1b[31m\\u202e' + "x" * (80 - 28) + "..."
    assert message.isascii()
    assert "correct or remove this one" in message


def test_nested_too_deep_or_digits_without_end_are_malformed(tmp_path):
    for content in ("[" * 100_000, '{"text": "a", "n": ' + "9" * 5000 + "}"):
        assert "line 1 is not valid JSON" in refused(written(tmp_path, "deep.jsonl", content))


def test_malformed_json_file_names_the_line(tmp_path):
    path = written(tmp_path, "bad.json", '[\n{"text": "a"},\n{"text": }\n]')
    assert refused(path).startswith(f"{path} line 3 is not valid JSON")
    assert '{"text": }' in refused(path)
    assert "holds a number; expected an array" in refused(written(tmp_path, "n.json", "5"))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[1, 2]", "an array: [1, 2]"),
        ('"words"', 'a string: "words"'),
        ("null", "null: null"),
        ("3", "a number: 3"),
        ("true", "a boolean: true"),
    ],
)
def test_line_that_is_no_object(tmp_path, line, what):
    path = written(tmp_path, "odd.jsonl", jsonl(ROWS[:1]) + line + "\n")
    assert refused(path).startswith(f"{path} line 2 is {what}\nExpected an object")


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.parquet"])
def test_missing_fields_are_listed_with_what_was_found(tmp_path, name):
    frame = pd.DataFrame({"question": ["why?"], "answer": ["so"]})
    path = tmp_path / name
    {
        "q.jsonl": lambda: path.write_text(frame.to_json(orient="records", lines=True)),
        "q.csv": lambda: frame.to_csv(path, index=False),
        "q.parquet": lambda: frame.to_parquet(path),
    }[name]()
    message = refused(path)
    unit = "line" if name == "q.jsonl" else "row"
    assert message.startswith(f"{path} {unit} 1 has no usable fields; found: question, answer; expected 'text'")
    assert "'body'" in refused(path, text="body")
    assert list(read(path, prompt="question", completion="answer").texts) == ["why?so"]


def test_a_null_is_a_missing_field(tmp_path):
    path = written(tmp_path, "n.jsonl", jsonl([{"text": None, "prompt": "p"}]))
    assert "found: text (null), prompt; expected" in refused(path)


def test_a_named_column_that_is_not_there(tmp_path):
    path = written(tmp_path, "r.jsonl", jsonl(ROWS))
    assert "line 1 has no column 'uid', which was named; found: id, text, source, label" in refused(path, id="uid")


def test_mixed_schemas_name_the_first_row_that_differs(tmp_path):
    rows = [{"text": "a"}, {"text": "b"}, {"prompt": "p", "completion": "c"}, {"messages": []}]
    path = written(tmp_path, "mixed.jsonl", jsonl(rows))
    assert refused(path).startswith(f"{path} line 3 has 'prompt' and 'completion', but the first row has 'text'.")


def test_a_row_of_two_kinds_asks_which(tmp_path):
    path = written(tmp_path, "two.jsonl", jsonl([{"text": "t", "prompt": "p", "completion": "c"}]))
    assert "line 1 has 'text' and also 'prompt' and 'completion', so its kind is not clear" in refused(path)
    assert read(path, text="text").kind == "text"
    assert read(path, prompt="prompt").kind == "completion"
    assert "more than one kind" in refused(path, text="text", prompt="prompt")


def test_duplicate_ids_name_both_rows(tmp_path):
    rows = [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"text": "3"}, {"id": "b", "text": "4"}]
    path = written(tmp_path, "twice.jsonl", "\n" + jsonl(rows))
    assert refused(path).startswith(f"{path} line 5 has the id 'b', as has line 3; ids must be unique.")
    clash = written(tmp_path, "clash.jsonl", jsonl([{"text": "1"}, {"id": "clash:1", "text": "2"}]))
    assert "line 2 has the id 'clash:1', as has line 1" in refused(clash)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": ""}, "'text' is empty"),
        ({"text": " \n\t"}, "'text' holds only white space"),
        ({"prompt": "p", "completion": " "}, "'completion' holds only white space"),
        ({"text": 5}, "'text' is int 5; expected a string"),
        ({"text": ["a"]}, "'text' is list ['a']; expected a string"),
        ({"prompt": 1.5, "completion": "c"}, "'prompt' is float 1.5; expected a string"),
        ({"text": "t", "label": {"a": 1}}, "the label is dict {'a': 1}"),
        ({"text": "t", "label": float("inf")}, "the label is float inf; expected a finite number"),
        ({"text": "t", "id": [1]}, "'id' is list [1]"),
        ({"messages": "hi"}, "'messages' is str 'hi'; expected a list of {role, content}"),
        ({"messages": []}, "'messages' is an empty list"),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' is dict {'role': 'user'}; expected a role"),
        ({"messages": [{"role": "user", "content": "a"}, 3]}, "message 2 of 'messages' is int 3"),
        ({"messages": [{"role": "user", "content": " "}]}, "every message of 'messages' is empty"),
    ],
)
def test_unusable_values_name_the_row(tmp_path, row, said):
    good = {"text": "good"} if "text" in row else {"prompt": "p", "completion": "c"}
    rows = [good if "messages" not in row else {"messages": [{"role": "user", "content": "a"}]}, row]
    path = written(tmp_path, "odd.jsonl", jsonl(rows))
    message = refused(path)
    assert message.startswith(f"{path} line 2")
    assert said in message


def test_an_empty_prompt_is_a_completion_of_nothing(tmp_path):
    assert read(written(tmp_path, "e.jsonl", '{"prompt": "", "completion": "c"}')).texts[0] == "c"


def test_half_a_surrogate_pair_is_refused(tmp_path):
    assert "surrogate pair (\\ud800)" in refused(written(tmp_path, "s.jsonl", '{"text": "a\\ud800"}'))


@pytest.mark.parametrize("name", ["l.jsonl", "l.csv", "l.txt", "l.json"])
def test_invalid_utf8_names_the_line(tmp_path, name):
    path = written(tmp_path, name, b'[{"text": "good"},\n{"text": "caf\xe9"}]')
    message = refused(path, limit=1) if name == "l.json" else refused(path) if name == "l.txt" else None
    if message is None:
        content = b"text\ncaf\xe9\n" if name == "l.csv" else b'{"text": "good"}\n{"text": "caf\xe9"}'
        message = refused(written(tmp_path, name, content))
    assert f"{path} line 2 is not UTF-8 (byte 0xe9 after '" in message
    assert "iconv" in message


def test_csv_rows_of_another_length_or_with_an_open_quote(tmp_path):
    path = written(tmp_path, "w.csv", "text,label\nfine,1\na, b,1\n")
    assert f"{path} row 2 (line 3) has 3 fields, the first line names 2: a, b,1" in refused(path)
    assert "unexpected end of data" in refused(written(tmp_path, "o.csv", 'text\nfine\n"never closed\n'))
    assert "the column 'text' appears twice" in refused(written(tmp_path, "t.csv", "text,text\na,b\n"))


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl.gz", "x.npz"])
def test_files_that_are_not_what_they_are_called(tmp_path, name):
    assert str(tmp_path / name) in refused(written(tmp_path, name, b"nonsense, not the real thing"))


def test_cut_files(tmp_path):
    whole = gzip.compress(jsonl(ROWS * 50).encode())
    assert "not a complete gzip file" in refused(written(tmp_path, "c.jsonl.gz", whole[:-20]))
    pd.DataFrame(ROWS).to_parquet(tmp_path / "c.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    assert "cannot be read as a Parquet file" in refused(written(tmp_path, "c.parquet", whole[:-20]))


def test_arrays_have_no_columns(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.eye(2))
    assert "holds arrays, which have no columns" in refused(tmp_path / "a.npz", text="X")
    np.savez(tmp_path / "b.npz", data=np.eye(2))
    assert "holds no array 'X'; found: data" in refused(tmp_path / "b.npz")
