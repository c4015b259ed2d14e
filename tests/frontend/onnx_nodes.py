"""Run ONNX's own node tests through our door: every case is right, or is refused in one line.

``python -m tests.frontend.onnx_nodes`` runs all of them and prints the table of ``docs/model_files.md``. With ``-v`` it
prints each refusal too, with ``-c`` the graph is compared with ONNX's reference evaluator as well, and any other word
chooses the cases whose names hold it.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from mase.errors import MaseError
from mase.frontend.onnx import load
from mase.frontend.onnx_rules import Unforeseen

WORDS = ("right", "refused", "wrong", "exception")
Verdict = tuple[str, str, str, str]
FORMS = ("as they are", "one input, the others as initializers")


@dataclass(frozen=True)
class Case:
    """One of ONNX's node tests.

    Args:
        sets: pairs of input arrays and expected output arrays, in the order of the model's.
        rtol, atol: the case's own tolerances.
    """

    name: str
    model: Any
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float

    def fixed(self) -> Case | None:
        """Return the case with all inputs but the first as initializers; None where that is the same case."""
        (inputs, outputs), *_ = self.sets
        names = [value.name for value in self.model.graph.input]
        if len(inputs) < 2 or len(names) != len(inputs) or not all(isinstance(a, np.ndarray) for a in inputs[1:]):
            return None
        model = type(self.model)()
        model.CopyFrom(self.model)
        del model.graph.input[1:]
        model.graph.initializer.extend(
            numpy_helper.from_array(a, n) for a, n in zip(inputs[1:], names[1:], strict=True)
        )
        return Case(self.name, model, [(inputs[:1], outputs)], self.rtol, self.atol)


@cache
def cases() -> tuple[Case, ...]:
    """Return all node tests of the installed ``onnx``, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = [c for c in collect_testcases(None) if c.model is not None and c.data_sets]
    made = [Case(c.name, c.model, [tuple(map(_arrays, pair)) for pair in c.data_sets], c.rtol, c.atol) for c in found]
    return tuple(sorted(made, key=lambda case: case.name))


def _arrays(values: Sequence[Any]) -> Sequence[Any]:
    """Return protos of tensors as arrays; other values stay."""
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def verdict(case: Case, folder: Path, compare: bool = False) -> tuple[str, str]:
    """Return one of WORDS, and the text that goes with it."""
    path = folder / "case.onnx"
    onnx.save(case.model, str(path))
    try:
        with np.errstate(all="ignore"):
            graph, _ = load(path, compare=compare)
            for inputs, outputs in case.sets:
                names = [value.name for value in case.model.graph.input]
                given = dict(zip(names, map(tensor, inputs), strict=True))
                found = list(graph.fields(**{name: given[name] for name in names}).values())
                if told := _difference(found, outputs, case):
                    return "wrong", told
    except MaseError as error:
        unclear = isinstance(error, Unforeseen) or "\n" in str(error)
        return ("exception" if unclear else "refused"), str(error)
    except Exception as error:  # noqa: BLE001  # what this is here to find
        return "exception", f"{type(error).__name__}: {error}"
    return "right", ""


def verdicts(chosen: Sequence[Case], folder: Path, compare: bool = False) -> Iterator[Verdict]:
    """Give one of WORDS for each case in each form, with the case's name, the form and the text that goes with it."""
    for case in chosen:
        for form, version in zip(FORMS, (case, case.fixed()), strict=True):
            if version is not None:
                word, told = verdict(version, folder, compare)
                yield word, case.name, form, told


def count(found: Sequence[Verdict]) -> dict[str, Counter[str]]:
    """Return how often each of WORDS came up, by form."""
    return {form: Counter(word for word, _, its, _ in found if its == form) for form in FORMS}


def tensor(array: Any) -> Any:
    """Return an array as a tensor of the same type, where PyTorch has it."""
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.astype(np.float32)).to(torch.bfloat16)
    return torch.tensor(array)


def _difference(found: Sequence[Any], wanted: Sequence[Any], case: Case) -> str:
    """Say how results differ from the expected ones; nothing where they do not."""
    for value, want in zip(found, wanted, strict=True):
        want = np.asarray(want)
        if value.dtype != torch.float64 or want.dtype == np.float64:
            name = str(value.dtype).removeprefix("torch.")
            if name != want.dtype.name:
                return f"dtype {name} for {want.dtype.name}"
        got = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        if got.shape != want.shape:
            return f"shape {got.shape} for {want.shape}"
        want = want.astype(got.dtype)
        if got.dtype.kind in "iub":
            if not np.array_equal(got, want):
                return f"{got.ravel()[:8]} for {want.ravel()[:8]}"
        elif not np.allclose(got, want, rtol=case.rtol, atol=case.atol, equal_nan=True):
            return f"{got.ravel()[:8]} for {want.ravel()[:8]}"
    return ""


def table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the lines of the table, as the page on models from files has it."""
    head = [f"| node tests | {' | '.join(WORDS)} |", f"| --- | {' | '.join('---' for _ in WORDS)} |"]
    return head + [f"| {form} | {' | '.join(str(n[word]) for word in WORDS)} |" for form, n in counts.items()]


def main(arguments: Sequence[str]) -> int:
    """Print the table, and every case that is wrong or raises another exception than ours."""
    say = sys.stdout.write
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    words, loud = [a for a in arguments if not a.startswith("-")], "-v" in arguments
    chosen = [case for case in cases() if not words or any(word in case.name for word in words)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = list(verdicts(chosen, Path(folder), "-c" in arguments))
    for word, name, form, told in found:
        if word in WORDS[2:] or (loud and word == "refused"):
            say(f"{word} | {name} | {form} | {told}\n")
    counts = count(found)
    say(f"onnx {onnx.__version__}, {len(chosen)} cases, {time.perf_counter() - start:.0f} s\n")
    say("\n".join(table(counts)) + "\n")
    return int(any(count[word] for count in counts.values() for word in WORDS[2:]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
