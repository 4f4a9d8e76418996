from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.sources.folder import Skips, list_tree
from pipeline_lib.sources.source_file import form_of


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_tree_is_listed_in_order_with_its_groups(tmp_path: Path) -> None:
    root = plant(
        tmp_path / "mine",
        {
            "setup.py": "a",
            "b/deep/x.py": "b",
            "a/y.md": "c",
            "a/README": "d",
            "a/.git/config.py": "no",
            "a/node_modules/z.md": "no",
            "env2/pyvenv.cfg": "no",
            "env2/lib/z.py": "no",
            "a/LICENSE.txt": "no",
            "a/image.png": "no",
            "a/__pycache__/y.py": "no",
        },
    )
    got = [(file.path, file.group, file.source, file.form) for file in list_tree(str(root))]
    assert got == [
        ("setup.py", "mine", "mine", "python"),
        ("a/README", "a", "mine", "plain"),
        ("a/y.md", "a", "mine", "markdown"),
        ("b/deep/x.py", "b", "mine", "python"),
    ]


def test_links_are_never_followed(tmp_path: Path) -> None:
    plant(tmp_path / "secret", {"key.py": "k"})
    root = plant(tmp_path / "mine", {"a.py": "a"})
    (root / "file.py").symlink_to(tmp_path / "secret" / "key.py")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root)
    assert [file.path for file in list_tree(str(root))] == ["a.py"]


def test_what_a_tree_holds_besides_is_counted_by_reason_and_suffix(tmp_path: Path) -> None:
    files = {f"web/{n}.ts": "no" for n in range(89)} | {
        "web/a.js": "yes", "web/logo.PNG": "no", "web/Makefile": "no", "LICENSE.txt": "no", "web/node_modules/b/b.js": "no",
        "web/node_modules/b/b.d.ts": "no", "web/.venv/pyvenv.cfg": "no", "own/pyvenv.cfg": "no", "web/__pycache__/a.pyc": "no",
        ".git/objects/ab/cd": "no", ".git/HEAD": "no", "web/data.5f3a9c01d2e4": "no",
    }  # fmt: skip
    root = plant(tmp_path / "mine", files)
    (root / "link.py").symlink_to(root / "web" / "a.js")
    os.mkfifo(root / "pipe.py")
    skips = Skips()
    assert [file.path for file in list_tree(str(root), skips)] == ["web/a.js"]
    assert skips.facts() == {
        "licence_or_list": {".txt": 1},
        "link": {".py": 1},
        "no_code_or_prose": {"(none)": 1, "(other)": 1, ".png": 1},
        "not_a_file": {".py": 1},
        "other_language": {".ts": 89},
        "vendored_folder": {".cfg": 2, ".js": 1, ".ts": 1},
        "version_control": {"(none)": 1},
    }
    assert Skips.of(skips.facts()) == skips
    assert skips.sentence().startswith("100 files are not read: other_language 89 (.ts 89); vendored_folder 4 (.cfg 2, .js 1")
    assert skips.by_reason()["vendored_folder"] == 4 and Skips().sentence() == ""


def test_suffixes_beyond_a_bound_are_counted_together() -> None:
    skips = Skips()
    for number in range(1000):
        skips.note(f"a.x{number}")
    assert len(skips) == 201 and skips.total() == 1000 and skips["no_code_or_prose", "(other)"] == 800


def test_names_that_are_no_unicode_are_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"b\xff.py")).write_text("a")
    (file,) = list_tree(str(tmp_path))
    assert file.path == "b\\xff.py"
    assert Path(file.place).read_text() == "a"


def test_content_and_path_make_the_identity_and_the_place_does_not(tmp_path: Path) -> None:
    files = {"p/a.py": "a", "p/b.py": "b"}
    one, two = plant(tmp_path / "one" / "mine", files), plant(tmp_path / "two" / "mine", files)
    assert [f.identity for f in list_tree(str(one))] == [f.identity for f in list_tree(str(two))]
    (two / "p" / "b.py").write_text("c")
    assert [f.identity for f in list_tree(str(one))] != [f.identity for f in list_tree(str(two))]


def test_wrong_folders_are_answered_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a")
    (tmp_path / "empty").mkdir()
    for place, words in (("none", "no such folder"), ("file.py", "is a file"), ("empty", "no code or prose")):
        with pytest.raises(UserError, match=words) as caught:
            list_tree(str(tmp_path / place))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_answered_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(UserError, match="permission denied"):
            list_tree(str(tmp_path))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a/b.py", "python"), ("B.PY", "python"), ("x.md", "markdown"), ("x.rst", "restructuredtext"), ("x.txt", "plain"),
        ("README", "plain"), ("readme", "plain"), ("readme.md", "markdown"), (".py", None), ("py", None), ("x.pyc", None),
        ("LICENSE.txt", None), ("license.py", "python"), ("requirements-dev.txt", None), ("CMakeLists.txt", None),
    ],
)  # fmt: skip
def test_the_name_tells_the_form(name: str, form: str | None) -> None:
    assert form_of(name) == form
