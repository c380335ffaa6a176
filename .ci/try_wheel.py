"""An installed wheel at work, without its sources or a compiler. `tests/tiny.py` lies beside."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tiny import boolean_rows, tiny_model, tiny_tokenizer

import greater_fast
import greater_fast.kernels.reference

assert importlib.util.find_spec("kernels") is None, "the wheel installs a top-level `kernels`"
package = Path(greater_fast.__file__).parent
assert package.is_relative_to(sys.prefix), package
for name in ("cc", "gcc", "c++", "g++", "clang", "ninja"):
    assert shutil.which(name) is None, f"{name} is on the PATH"

work = Path.cwd()
tokenizer = tiny_tokenizer("llama3")
tiny_model("llama", len(tokenizer)).save_pretrained(work / "model")
tokenizer.save_pretrained(work / "model")
rows = [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]
(work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

limits = {"steps": 2, "max-new-tokens": 6, "max-prompt-tokens": 40, "num-train": 4, "num-dev": 4}
options = [part for name, value in limits.items() for part in (f"--{name}", str(value))]
command = str(Path(sys.executable).with_name("greater-fast"))
given = ["--model", "model", "--train", "rows.jsonl", "--engine", "paged", "--run-dir", "run"]
subprocess.run([command, "optimize", *given, *options], check=True)
subprocess.run([command, "show", "run"], check=True)
subprocess.run([command, "export", "run", "--to", "text"], check=True, stdout=subprocess.DEVNULL)

# One OpenMP for both, and so one pool of threads: torch's.
importlib.import_module("greater_fast.model.cpu.extension")
maps = Path("/proc/self/maps").read_text().splitlines()
loaded = {line.split()[-1] for line in maps if "libgomp" in line}
assert len(loaded) == 1, loaded
assert Path(*loaded).parent.name == "lib", loaded
assert Path(*loaded).parents[1].name == "torch", loaded
print("works:", package, "with", *loaded)
