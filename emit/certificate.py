"""Check the certificate of an emitted folder, by the standard library alone: ``python -m emit.certificate FOLDER``.

``certificate.json`` holds the firing programs of a design as loop nests, its wires with their capacity, and its
interval. The check rests on these, and on the top of the RTL, whose parameters and wires must be the certified ones.
It shows that the design never stops, and that sample n leaves n intervals after the first one, or earlier.

Let t_i be the cycle in which firing i may happen: not before the firing before it has dwelt, the tokens that it takes
are visible and the slots that it acquires are free. Here each round of samples also waits until a round later than the
one before it by the interval. When a round is, firing by firing, the round before it one interval later, and so are as
many rounds as a slot can come back from, then the next round has the same past, so it is too, and so are all. Without
that wait each firing is at its time or earlier, since times are maxima of sums of earlier ones. Pauses only delay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

SCHEMA = 1
LEAST = 2  # slots of a FIFO between blocks
ACTIONS = ("take", "free", "acquire", "publish")
ROUNDS = 32  # besides those that actors and wires ask for: after so many without repetition the check gives up
Text = dict[str, Any]  # JSON


class Refused(Exception):
    """Say why the certificate does not hold."""


class Queue:
    """One wire: cycles in which its tokens are visible and its slots are free, for the round that runs."""

    def __init__(self, wire: Text, round_tokens: int) -> None:
        self.name = f"{'.'.join(wire['from'])} -> {'.'.join(wire['to'])}"
        self.depth, self.tokens = int(wire["capacity"]), round_tokens
        self.visible, self.free, self.taken, self.acquired = list[int](), [0] * self.depth, 0, 0


class Actor:
    """One firing program, and how far it has come in the round that runs."""

    def __init__(self, actor: Text, samples: int, sinks: dict[Any, Queue], sources: dict[Any, list[Queue]]) -> None:
        self.name, self.waits = str(actor["name"]), ""
        latency, steps = actor["latency"], unrolled(actor["body"])
        self.steps = []
        for step in steps * samples:
            ends = {action: [(self.name, port) for port in step.get(action, ())] for action in ACTIONS}
            takes = [sinks[end] for end in ends["take"] if end in sinks]
            frees = [sinks[end] for end in ends["free"] if end in sinks]
            acquires = [queue for end in ends["acquire"] for queue in sources.get(end, ())]
            gives = [(queue, latency.get(end[1], 1)) for end in ends["publish"] for queue in sources.get(end, ())]
            self.steps.append((takes, frees, acquires, gives, int(step.get("dwell", 1))))
        self.now, self.times, self.before = 0, list[int](), list[int]()

    def distance(self) -> int:
        """Return how much later than the one before it the round is, firing by firing; -1 where they differ."""
        distances = {b - a for a, b in zip(self.before, self.times, strict=True)} if self.before else {-1}
        return distances.pop() if len(distances) == 1 else -1

    def advance(self, period: int) -> bool:
        """Fire until the round ends or a token or a slot is missing; tell whether anything fired."""
        start = len(self.times)
        for index in range(start, len(self.steps)):
            takes, frees, acquires, gives, dwell = self.steps[index]
            now = max(self.now, self.before[index] + period) if self.before else self.now
            for queue in takes:
                if queue.taken == len(queue.visible):
                    self.waits = f"{self.name} waits for a token on {queue.name}"
                    return index > start
                now = max(now, queue.visible[queue.taken])
            for queue in acquires:
                if queue.acquired == len(queue.free):
                    self.waits = f"{self.name} waits for a slot of {queue.name}"
                    return index > start
                now = max(now, queue.free[queue.acquired])
            for queue in takes:
                queue.taken += 1
            for queue in frees:
                queue.free.append(now + 1)
            for queue in acquires:
                queue.acquired += 1
            for queue, late in gives:
                queue.visible.append(now + late)
            self.times.append(now)
            self.now = now + dwell
        return len(self.times) > start


def unrolled(body: list[Text]) -> list[Text]:
    """Return the steps of a loop nest in order."""
    out: list[Text] = []
    for item in body:
        out += unrolled(item["body"]) * int(item["times"]) if "times" in item else [item]
    return out


def prove(facts: Text, samples: int, cycles: int) -> str:
    """Return why the network does not keep ``cycles`` a round, of ``samples`` samples; empty where it is proven to.

    Args:
        facts: ``actors`` and ``wires`` of a certificate.
    """
    counts: dict[Any, int] = {}
    for name, body in [(actor["name"], actor["body"]) for actor in facts["actors"]]:
        steps = unrolled(body)
        if samples * sum(int(step.get("dwell", 1)) for step in steps) > cycles:
            return f"{name} alone takes more than {cycles} cycles a round"
        for action, ports in [(action, step.get(action, ())) for step in steps for action in ACTIONS]:
            if len(set(ports)) < len(ports):
                return f"{name}: a step names a port twice"
            for port in ports:
                counts[name, port, action] = counts.get((name, port, action), 0) + samples
    sinks, sources = dict[Any, Queue](), dict[Any, list[Queue]]()
    for wire in facts["wires"]:
        source, sink = tuple(wire["from"]), tuple(wire["to"])
        found = {counts.get((*sink, action), 0) for action in ("take", "free")}
        found |= {counts.get((*source, action), 0) for action in ("acquire", "publish")}
        if len(found) > 1 or found == {0} or sink in sinks:
            return f"{'.'.join(source)} -> {'.'.join(sink)}: a sample does not take as many tokens as it gives"
        sinks[sink] = Queue(wire, found.pop())
        sources.setdefault(source, []).append(sinks[sink])
    actors = [Actor(actor, samples, sinks, sources) for actor in facts["actors"]]
    reach = max((-(-queue.depth // queue.tokens) for queue in sinks.values()), default=1)
    same, last = 0, -1
    for _ in range(ROUNDS + reach + 2 * (len(actors) + len(sinks))):
        for queue in sinks.values():  # all tokens were taken; the slots that are still free are the last ones
            queue.visible, queue.free, queue.taken, queue.acquired = [], queue.free[-queue.depth :], 0, 0
        for actor in actors:
            actor.before, actor.times = actor.times, []
        while sum(actor.advance(cycles) for actor in actors):
            pass
        stuck = [actor.waits for actor in actors if len(actor.times) < len(actor.steps)]
        if stuck:
            return f"the design stops: {'; '.join(stuck[:3])}"
        distances = {actor.distance() for actor in actors}
        now = distances.pop() if len(distances) == 1 else -1
        same, last = same + 1 if now == last else 1, now
        if same >= reach and now >= 0:
            return "" if now == cycles else f"takes {now} cycles a round, not {cycles}"
    return f"no pattern of firings keeps {cycles} cycles a round"


def hardware(folder: Path, facts: Text) -> str:
    """Return where ``design.json`` or the top of the RTL are not what was certified; empty where they are."""
    manifest = json.loads((folder / "design.json").read_text(encoding="utf-8"))
    text = (folder / "rtl" / f"{facts['top']}.sv").read_text(encoding="utf-8")
    listed = {instance["name"]: instance["parameters"] for instance in manifest["instances"]}
    built, ports = {}, {}
    for body, name, ends in re.findall(r"^  \w+ #\((.*?)^  \) (u_\w+) \((.*?)^  \);", text, re.DOTALL | re.MULTILINE):
        built[name] = {key: int(value) for key, value in re.findall(r"\.(\w+)\s*\((-?\d+)\)", body)}
        ports.update({(name, port): signal for port, signal in re.findall(r"\.(\w+)\s*\((\w+)\)", ends)})
    for name, parameters in facts["instances"].items():
        for where, found in (("design.json", listed.get(name)), (f"rtl/{facts['top']}.sv", built.get(name))):
            if found != parameters:
                return f"{where}: the parameters of {name} are not those that were certified"
    if set(facts["instances"]) != set(listed) or not set(listed) >= {
        name for name in built if not name.startswith("u_guard")
    }:
        return "design.json: has other instances than the certificate"
    for wire in facts["wires"]:
        if not (LEAST if wire["pins"] else 1) <= wire["need"] <= wire["capacity"]:
            return f"{'.'.join(wire['from'])} has {wire['capacity']} slots and needs {wire['need']}"
        if wire["parameter"] and facts["instances"][wire["parameter"][0]][wire["parameter"][1]] != wire["capacity"]:
            return f"{'.'.join(wire['parameter'])} is not the capacity of {'.'.join(wire['from'])}"
        if wire["pins"]:
            (source, out), (sink, into) = wire["pins"]
            if ports[source, f"{out}_valid_o"] != ports[sink, f"{into}_valid_i"]:
                return f"rtl/{facts['top']}.sv: no wire leads from {source}.{out} to {sink}.{into}"
    return ""


def check(folder: str | Path) -> str:
    """Check a folder and say in a line what was shown.

    Raises:
        Refused: the certificate does not hold, or is not one of this folder.
    """
    try:
        facts = json.loads((Path(folder) / "certificate.json").read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            raise Refused(f"{folder}: certificate.json: schema {facts['schema']}; allowed is {SCHEMA}")
        samples, cycles = facts["interval"]["samples"], facts["interval"]["cycles"]
        why = hardware(Path(folder), facts) or prove(facts, samples, cycles)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"{folder}: cannot be read as a certified design: {error!r}") from None
    if why:
        raise Refused(f"{folder}: {why}")
    every = f"{samples} samples" if samples > 1 else "a sample"
    wires = f"{len(facts['wires'])} wires have the slots that they need"
    return f"{facts['top']}: never stops, and takes {every} in {cycles} cycles or fewer; {wires}"


if __name__ == "__main__":
    try:
        print("\n".join(check(folder) for folder in sys.argv[1:] or ["."]))  # noqa: T201 - a program
    except Refused as refusal:
        sys.exit(str(refusal))
