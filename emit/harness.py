"""The C++ program around the verilated model: feeds files, records every named edge or wire, counts cycles."""

from __future__ import annotations

from collections.abc import Sequence

from emit.design import Design, Port

COMMON = ("rst_ni", "flush_i", "error_o")


def bundle(designs: Sequence[Design]) -> str:
    """Return a SystemVerilog top that holds the designs side by side, each behind ports of its own."""
    ports, body = ["  input  wire logic clk_i"], []
    for i, design in enumerate(designs):
        ports += [
            f"  input  wire logic d{i}_rst_ni",
            f"  input  wire logic d{i}_flush_i",
            f"  output      logic d{i}_error_o",
        ]
        for port in design.inputs:
            stem, bits = f"d{i}_{port.name}", port.stream.bits
            ports += [
                f"  input  wire logic {stem}_valid_i",
                f"  output      logic {stem}_ready_o",
                f"  input  wire logic [{bits - 1}:0] {stem}_data_i",
                f"  input  wire logic {stem}_last_i",
            ]
        for port in design.outputs:
            stem, bits = f"d{i}_{port.name}", port.stream.bits
            ports += [
                f"  output      logic {stem}_valid_o",
                f"  input  wire logic {stem}_ready_i",
                f"  output      logic [{bits - 1}:0] {stem}_data_o",
                f"  output      logic {stem}_last_o",
            ]
        names = [*COMMON, *(name for port in design.ends.all for name in signals(port))]
        wires = "".join(f",\n    .{name}(d{i}_{name})" for name in names)
        body.append(f"  {design.top} u_{i} (\n    .clk_i(clk_i){wires}\n  );\n")
    joined = ",\n".join(ports)
    return f"`default_nettype none\nmodule bundle (\n{joined}\n);\n{''.join(body)}endmodule\n`default_nettype wire\n"


def signals(port: Port) -> list[str]:
    """Return the signals of a stream: valid, ready, data, last."""
    ends = ("valid_i", "ready_o", "data_i", "last_i") if port.direction == "in" else _OUT
    return [f"{port.name}_{end}" for end in ends]


_OUT = ("valid_o", "ready_i", "data_o", "last_o")


def control(designs: Sequence[Design]) -> str:
    """Return the Verilator configuration that lets the harness read the recorded streams."""
    lines = ["`verilator_config"]
    for design in designs:
        for edge in design.recorded:
            names = (f"{edge.signal}_{part}" for part in ("valid", "ready", "data"))
            lines.extend(f'public_flat_rd -module "{design.top}" -var "{name}"' for name in names)
    return "\n".join(lines) + "\n"


def program(designs: Sequence[Design]) -> str:
    """Return the C++ source of the harness."""
    tables = "".join(_design_table(i, design) for i, design in enumerate(designs))
    return _PROGRAM.replace("@DESIGNS@", tables)


def _design_table(index: int, design: Design) -> str:
    edges = []
    for edge in design.recorded:
        base = f"&top.rootp->bundle__DOT__u_{index}__DOT__{edge.signal}"
        edges.append(f'{{"{edge.signal}", {base}_valid, {base}_ready, {base}_data, {edge.stream.bytes}}}')
    common = ", ".join(f"&top.d{index}_{name}" for name in COMMON)
    tables = [", ".join(_stream(index, port) for port in ports) for ports in (design.inputs, design.outputs)]
    return f"  designs.push_back(Design({common}, {{{tables[0]}}}, {{{tables[1]}}}, {{{', '.join(edges)}}}));\n"


def _stream(index: int, port: Port) -> str:
    pointers = ", ".join(f"&top.d{index}_{name}" for name in signals(port))
    return f'{{"{port.name}", {pointers}, {port.stream.bytes}, {port.stream.beats}}}'


_PROGRAM = r"""// Streams binary files through one or more accelerators, records every named edge, counts cycles.
// usage: sim JOB FOLDER   JOB holds the seed of what registers hold before the reset; then one line a design: samples
// seed restart_at flush (cycles), the pauses of each input and each output (permille), and for each input the beat at
// which `last` is wrong, counted from 1 (0: none); then one line: limit vcd_start vcd_end. Reads D.PORT.in, writes
// D.SIGNAL.bin and D.PORT.done; prints JSON. Built for traces, it also writes D.SIGNAL.time: the cycle of each beat, in
// the count of the window.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>
#include <unistd.h>
#ifdef __linux__
#include <csignal>
#include <sys/prctl.h>
#endif

#include "Vbundle.h"
#include "Vbundle___024root.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

struct Edge {
  const char* name;
  const CData* valid;
  const CData* ready;
  const void* data;
  size_t bytes;
  FILE *file = nullptr, *times = nullptr;
  uint64_t beats = 0, stalled = 0, idle = 0;
  bool held = false;                // offered and not taken in the cycle before
  std::vector<unsigned char> last;  // what was offered then
  Edge(const char* n, const CData* v, const CData* r, const void* d, size_t b)
      : name(n), valid(v), ready(r), data(d), bytes(b), last(b) {}
};

struct Source {
  const char* name;
  CData *valid, *ready;
  void* data;
  CData* last;
  size_t bytes, beats;
  std::vector<unsigned char> input;
  uint64_t stall = 0, wrong = 0, sent = 0;
  bool offering = false;
  Source(const char* n, CData* v, CData* r, void* d, CData* l, size_t by, size_t be)
      : name(n), valid(v), ready(r), data(d), last(l), bytes(by), beats(be) {}
};

struct Sink {
  const char* name;
  CData *valid, *ready;
  const void* data;
  CData* last;
  size_t bytes, beats;
  std::vector<uint64_t> done;
  uint64_t stall = 0, got = 0, first = 0;
  Sink(const char* n, CData* v, CData* r, const void* d, CData* l, size_t by, size_t be)
      : name(n), valid(v), ready(r), data(d), last(l), bytes(by), beats(be) {}
};

struct Design {
  CData *rst, *flush, *error;
  std::vector<Source> sources;
  std::vector<Sink> sinks;
  std::vector<Edge> edges;
  uint64_t samples = 0, rng = 1, restart_at = 0, flush_mode = 0;
  uint64_t first_cycle = 0, quiet = 0, drain = 0;
  bool strict = false;  // pauses on some stream: watch that what is held does not change
  bool started = false, finished = false, restarted = false;
  std::string fault;
  unsigned resetting = 1;  // cycles: a register that a longer reset would flush must have one of its own

  Design(CData* r, CData* f, CData* e, std::vector<Source> in, std::vector<Sink> out, std::vector<Edge> ed)
      : rst(r), flush(f), error(e), sources(std::move(in)), sinks(std::move(out)), edges(std::move(ed)) {}

  uint64_t random() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }

  bool complete() const {
    for (auto& s : sinks) if (s.got < samples * s.beats) return false;
    return true;
  }

  void rewind() {
    drain = quiet = 0;
    started = false;
    for (auto& s : sources) { s.sent = 0; s.offering = false; }
    for (auto& s : sinks) { s.got = 0; s.done.clear(); }
    for (auto& e : edges) {
      e.beats = e.stalled = e.idle = 0;
      e.held = false;
      for (FILE* f : {e.file, e.times})
        if (f) { fflush(f); ::rewind(f); if (ftruncate(fileno(f), 0)) abort(); }
    }
  }

  void drive(uint64_t cycle) {
    if (restart_at && cycle == restart_at && !restarted) { restarted = true; resetting = 1; rewind(); }
    if (resetting) {
      --resetting;
      const bool pulse = restarted && flush_mode;  // a restart by flush_i keeps rst_ni high
      *rst = pulse ? 1 : 0; *flush = pulse ? 1 : 0;
      for (auto& s : sources) *s.valid = 0;
      for (auto& s : sinks) *s.ready = 0;
      return;
    }
    *rst = 1; *flush = 0;
    for (auto& s : sources) {
      if (!s.offering) s.offering = s.sent < samples * s.beats && (!s.stall || random() % 1000 >= s.stall);
      *s.valid = s.offering;
      if (!s.offering) continue;
      std::memcpy(s.data, s.input.data() + s.sent * s.bytes, s.bytes);
      *s.last = (s.sent % s.beats == s.beats - 1) != (s.sent + 1 == s.wrong);
    }
    for (auto& s : sinks) *s.ready = !s.stall || random() % 1000 >= s.stall;
  }

  void fail(const std::string& what) { if (fault.empty()) fault = what; finished = true; }

  std::string of(const Sink& s) const { return sinks.size() > 1 ? std::string(" of ") + s.name : ""; }

  void sample(uint64_t cycle, uint64_t limit) {
    if (!*rst || *flush) return;
    bool moved = false;
    for (auto& e : edges) {
      const bool valid = *e.valid, ready = *e.ready;
      if (strict && e.held && (!valid || std::memcmp(e.last.data(), e.data, e.bytes)))
        fail(std::string("edge ") + e.name + " changed while stalled");
      if (valid && ready) {
        fwrite(e.data, 1, e.bytes, e.file);
        if (e.times) fwrite(&cycle, sizeof cycle, 1, e.times);
        e.beats++;
        moved = true;
      }
      e.stalled += valid && !ready;
      e.idle += !valid;
      e.held = valid && !ready;
      if (strict && e.held) std::memcpy(e.last.data(), e.data, e.bytes);
    }
    for (auto& s : sources) {
      if (!*s.valid || !*s.ready) continue;
      if (!started) { started = true; first_cycle = cycle; }
      s.sent++; s.offering = false; moved = true;
    }
    for (auto& s : sinks) {
      if (!*s.valid || !*s.ready) continue;
      if (s.got == 0) s.first = cycle;  // perhaps before the first input beat: a border
      const bool last = s.got % s.beats == s.beats - 1;
      if (bool(*s.last) != last) fail("out_last_o" + of(s) + " at beat " + std::to_string(s.got));
      if (s.got >= samples * s.beats) fail("more output" + of(s) + " than samples");
      if (last) s.done.push_back(cycle - first_cycle);
      s.got++; moved = true;
    }
    if (*error) fail("error_o is high");
    quiet = moved ? 0 : quiet + 1;
    if (complete()) { if (++drain > 64) finished = true; }
    else if (quiet > limit) fail("nothing moves");
  }
};

static std::vector<unsigned char> slurp(const std::string& path) {
  FILE* f = fopen(path.c_str(), "rb");
  if (!f) { perror(path.c_str()); exit(2); }
  fseek(f, 0, SEEK_END);
  std::vector<unsigned char> v(ftell(f));
  rewind(f);
  if (!v.empty() && fread(v.data(), 1, v.size(), f) != v.size()) exit(2);
  fclose(f);
  return v;
}

int main(int argc, char** argv) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a parent that is killed cannot stop its child
#endif
  if (argc != 3) { fprintf(stderr, "usage: %s JOB FOLDER\n", argv[0]); return 2; }
  FILE* job = fopen(argv[1], "r");
  if (!job) { perror(argv[1]); return 2; }
  int noise = 0;
  if (fscanf(job, "%d", &noise) != 1) return 2;
  auto ctx = std::make_unique<VerilatedContext>();
  ctx->randReset(2);
  ctx->randSeed(noise);
  auto model = std::make_unique<Vbundle>(ctx.get());
  Vbundle& top = *model;
  std::vector<Design> designs;
@DESIGNS@
  const std::string folder = std::string(argv[2]) + "/";
  unsigned long long limit = 0, vcd_start = 0, vcd_end = 0;
  for (size_t d = 0; d < designs.size(); d++) {
    unsigned long long v[4], x = 0;
    for (auto& y : v) if (fscanf(job, "%llu", &y) != 1) return 2;
    Design& it = designs[d];
    it.samples = v[0]; it.rng = 88172645463325252ull + 7919 * v[1]; it.restart_at = v[2]; it.flush_mode = v[3];
    const std::string stem = folder + std::to_string(d) + ".";
    for (auto& s : it.sources) {
      if (fscanf(job, "%llu", &x) != 1) return 2;
      s.stall = x;
      it.strict |= x > 0;
      s.input = slurp(stem + s.name + ".in");
    }
    for (auto& s : it.sinks) {
      if (fscanf(job, "%llu", &x) != 1) return 2;
      s.stall = x;
      it.strict |= x > 0;
    }
    for (auto& s : it.sources) {
      if (fscanf(job, "%llu", &x) != 1) return 2;
      s.wrong = x;
    }
    for (auto& e : it.edges) {
      e.file = fopen((stem + e.name + ".bin").c_str(), "wb+");
      if (!e.file) { perror(e.name); return 2; }
#if VM_TRACE
      e.times = fopen((stem + e.name + ".time").c_str(), "wb+");
      if (!e.times) { perror(e.name); return 2; }
#endif
    }
    it.finished = it.samples == 0;
  }
  if (fscanf(job, "%llu %llu %llu", &limit, &vcd_start, &vcd_end) != 3) return 2;
  fclose(job);
#if VM_TRACE
  ctx->traceEverOn(true);
  VerilatedVcdC vcd;
  top.trace(&vcd, 99);
#endif
  top.clk_i = 0;
  for (const CData level : {1, 0}) {  // the reset is asynchronous: it begins with an edge, before any of the clock
    for (auto& d : designs) *d.rst = level;
    top.eval();
  }
  uint64_t cycle = 0;
  for (bool running = true; running; cycle++) {
    running = false;
    for (auto& d : designs) if (!d.finished) d.drive(cycle);
    top.clk_i = 0;
    top.eval();
#if VM_TRACE
    if (cycle == vcd_start) vcd.open((folder + "window.vcd").c_str());
    if (vcd.isOpen()) vcd.dump(2 * cycle);
#endif
    for (auto& d : designs) {
      if (!d.finished) d.sample(cycle, limit);
      if (!d.finished) running = true;
    }
    top.clk_i = 1;
    top.eval();
#if VM_TRACE
    if (vcd.isOpen()) { vcd.dump(2 * cycle + 1); if (cycle >= vcd_end) vcd.close(); }
#endif
  }
#if VM_TRACE
  if (vcd.isOpen()) vcd.close();
#endif
  printf("{\"cycles\": %llu, \"designs\": [", (unsigned long long)cycle);
  for (size_t d = 0; d < designs.size(); d++) {
    Design& it = designs[d];
    printf("%s{\"fault\": \"%s\", \"ports\": [", d ? ", " : "", it.fault.c_str());
    for (size_t i = 0; i < it.sinks.size(); i++) {
      Sink& s = it.sinks[i];
      FILE* f = fopen((folder + std::to_string(d) + "." + s.name + ".done").c_str(), "wb");
      fwrite(s.done.data(), sizeof(uint64_t), s.done.size(), f);
      fclose(f);
      printf("%s{\"got\": %llu, \"first_output\": %lld}", i ? ", " : "", (unsigned long long)s.got,
             (long long)(s.first - it.first_cycle));
    }
    printf("], \"edges\": [");
    for (size_t i = 0; i < it.edges.size(); i++) {
      Edge& e = it.edges[i];
      fclose(e.file);
      if (e.times) fclose(e.times);
      printf("%s{\"signal\": \"%s\", \"beats\": %llu, \"stalled\": %llu, ", i ? ", " : "", e.name,
             (unsigned long long)e.beats, (unsigned long long)e.stalled);
      printf("\"idle\": %llu, \"valid\": %d, \"ready\": %d}", (unsigned long long)e.idle, int(*e.valid), int(*e.ready));
    }
    printf("]}");
  }
  printf("]}\n");
  top.final();
  return 0;
}
"""
