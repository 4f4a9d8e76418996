"""The tutorial's notebook, run anew, and the page of the site that shows it.

    python -m benchmarks.notebook                # runs it: outputs, docs/tutorial/from-python.md and its pictures
    python -m benchmarks.notebook --page-only    # the page of the outputs that are there

Outputs keep neither times nor folders of a machine. Needs the test extra (nbclient, ipykernel).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = PROJECT / "docs" / "tutorial" / "from-python.ipynb"
PICTURES = PROJECT / "docs" / "pictures"
SECONDS = 1200
MADE = "<!-- made from from-python.ipynb by `make notebook` -->"

Notebook = dict[str, Any]


def read(path: Path = NOTEBOOK) -> Notebook:
    """The notebook as it is on disk."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def executed(notebook: Notebook, folder: Path) -> Notebook:
    """The notebook with new outputs, run by this Python in a kernel of its own that begins in a folder.

    Raises:
        CellExecutionError: a cell failed; the message has its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    given = nbformat.reads(json.dumps(notebook), as_version=4)
    NotebookClient(given, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return without_machine(json.loads(nbformat.writes(given)))


def without_machine(notebook: Notebook) -> Notebook:
    """The notebook without what a machine adds: times, versions, progress on standard error."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
            for output in cell["outputs"]:
                if "metadata" in output:
                    output["metadata"] = {}
    notebook["metadata"]["language_info"] = {"name": "python"}
    return notebook


def texts(cell: dict[str, Any]) -> str:
    """What a cell printed or returned, as text; pictures aside."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" not in data:
            found.append("".join(output.get("text") or data.get("text/plain", ())))
    return "".join(found)


def pictures(cell: dict[str, Any]) -> list[bytes]:
    """The pictures that a cell drew."""
    drawn = (output.get("data", {}).get("image/png") for output in cell.get("outputs", ()))
    return [base64.b64decode("".join(png)) for png in drawn if png]


def page(notebook: Notebook) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by the names of their files."""
    parts, drawn = [], dict[str, bytes]()
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        if said := texts(cell).rstrip():
            parts.append(f"```text\n{said}\n```")
        for png in pictures(cell):
            name = f"from-python-{len(drawn) + 1}.png"
            drawn[name] = png
            parts.append(f"![What the lines above draw](../pictures/{name})")
    first, *rest = parts
    told = "*As [a notebook](from-python.ipynb), which runs as it stands.*"
    return "\n\n".join([first, told, MADE, *rest]) + "\n", drawn


def main() -> None:
    """Run the notebook and write its page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page-only", action="store_true", help="run nothing")
    given = words.parse_args()
    notebook = read()
    if not given.page_only:
        notebook = executed(notebook, NOTEBOOK.parent)
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text, drawn = page(notebook)
    NOTEBOOK.with_suffix(".md").write_text(text, encoding="utf-8")
    for name, png in drawn.items():
        (PICTURES / name).write_bytes(png)
    print(f"{NOTEBOOK.with_suffix('.md')}: {len(notebook['cells'])} cells, {len(drawn)} pictures")


if __name__ == "__main__":
    main()
