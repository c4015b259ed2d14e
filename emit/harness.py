"""The C++ program around the verilated model: feeds files, records every named edge or wire, counts cycles."""

from __future__ import annotations

from collections.abc import Sequence

from emit.design import Design

PORTS = ("in_valid_i", "in_ready_o", "in_data_i", "in_last_i", "out_valid_o", "out_ready_i", "out_data_o", "out_last_o")


def bundle(designs: Sequence[Design]) -> str:
    """Return a SystemVerilog top that holds the designs side by side, each behind ports of its own."""
    ports, body = ["  input  wire logic clk_i"], []
    for i, design in enumerate(designs):
        feed, give = design.input.stream.bits, design.output.stream.bits
        ports += [
            f"  input  wire logic d{i}_rst_ni",
            f"  input  wire logic d{i}_flush_i",
            f"  output      logic d{i}_error_o",
            f"  input  wire logic d{i}_in_valid_i",
            f"  output      logic d{i}_in_ready_o",
            f"  input  wire logic [{feed - 1}:0] d{i}_in_data_i",
            f"  input  wire logic d{i}_in_last_i",
            f"  output      logic d{i}_out_valid_o",
            f"  input  wire logic d{i}_out_ready_i",
            f"  output      logic [{give - 1}:0] d{i}_out_data_o",
            f"  output      logic d{i}_out_last_o",
        ]
        wires = "".join(f",\n    .{p}(d{i}_{p})" for p in ("rst_ni", "flush_i", "error_o", *PORTS))
        body.append(f"  {design.top} u_{i} (\n    .clk_i(clk_i){wires}\n  );\n")
    joined = ",\n".join(ports)
    return f"`default_nettype none\nmodule bundle (\n{joined}\n);\n{''.join(body)}endmodule\n`default_nettype wire\n"


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
    feed, give = design.input.stream, design.output.stream
    port = {name: f"&top.d{index}_{name}" for name in ("rst_ni", "flush_i", "error_o", *PORTS)}
    edges = []
    for edge in design.recorded:
        base = f"&top.rootp->bundle__DOT__u_{index}__DOT__{edge.signal}"
        edges.append(f'{{"{edge.signal}", {base}_valid, {base}_ready, {base}_data, {edge.stream.bytes}}}')
    pointers = ", ".join(port[name] for name in ("rst_ni", "flush_i", "error_o", *PORTS))
    sizes = f"{feed.bytes}, {feed.beats}, {give.beats}"
    return f"  designs.push_back(Design({pointers}, {sizes}, {{{', '.join(edges)}}}));\n"


_PROGRAM = r"""// Streams binary files through one or more accelerators, records every named edge, counts cycles.
// usage: sim JOB   JOB holds the seed of what registers hold before the reset; then one line a design: samples stall_in
// stall_out seed restart_at flush (permille, cycles); then one line: limit vcd_start vcd_end. Reads D.in, writes
// D.SIGNAL.bin and D.done; prints JSON. Built for traces, it also writes D.SIGNAL.time: the cycle of each beat, in the
// count of the window.
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

struct Design {
  CData *rst, *flush, *error, *in_valid, *in_ready;
  void* in_data;
  CData *in_last, *out_valid, *out_ready;
  void* out_data;
  CData* out_last;
  size_t in_bytes, in_beats, out_beats;
  std::vector<Edge> edges;
  std::vector<unsigned char> input;
  std::vector<uint64_t> done;
  uint64_t samples = 0, stall_in = 0, stall_out = 0, rng = 1, restart_at = 0, flush_mode = 0;
  uint64_t sent = 0, got = 0, first_cycle = 0, first_output = 0, quiet = 0, drain = 0;
  bool started = false, offering = false, finished = false, restarted = false;
  std::string fault;
  unsigned resetting = 1;  // cycles: a register that a longer reset would flush must have one of its own

  Design(CData* a, CData* b, CData* c, CData* d, CData* e, void* f, CData* g, CData* h, CData* i, void* j, CData* k,
         size_t ib, size_t ibeats, size_t obeats, std::vector<Edge> ed)
      : rst(a), flush(b), error(c), in_valid(d), in_ready(e), in_data(f), in_last(g), out_valid(h), out_ready(i),
        out_data(j), out_last(k), in_bytes(ib), in_beats(ibeats), out_beats(obeats), edges(std::move(ed)) {}

  uint64_t random() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }

  void rewind() {
    sent = got = drain = quiet = 0;
    started = offering = false;
    done.clear();
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
      *rst = pulse ? 1 : 0; *flush = pulse ? 1 : 0; *in_valid = 0; *out_ready = 0;
      return;
    }
    *rst = 1; *flush = 0;
    if (!offering) offering = sent < samples * in_beats && (!stall_in || random() % 1000 >= stall_in);
    *in_valid = offering;
    if (offering) {
      std::memcpy(in_data, input.data() + sent * in_bytes, in_bytes);
      *in_last = sent % in_beats == in_beats - 1;
    }
    *out_ready = !stall_out || random() % 1000 >= stall_out;
  }

  void fail(const std::string& what) { if (fault.empty()) fault = what; finished = true; }

  void sample(uint64_t cycle, uint64_t limit) {
    if (!*rst || *flush) return;
    const bool strict = stall_in || stall_out;
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
    if (*in_valid && *in_ready) {
      if (!started) { started = true; first_cycle = cycle; }
      sent++; offering = false; moved = true;
    }
    if (*out_valid && *out_ready) {
      if (got == 0) first_output = cycle - first_cycle;
      const bool last = got % out_beats == out_beats - 1;
      if (bool(*out_last) != last) fail("out_last_o at beat " + std::to_string(got));
      if (got >= samples * out_beats) fail("more output than samples");
      if (last) done.push_back(cycle - first_cycle);
      got++; moved = true;
    }
    if (*error) fail("error_o is high");
    quiet = moved ? 0 : quiet + 1;
    if (got == samples * out_beats) { if (++drain > 64) finished = true; }
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
    unsigned long long v[6];
    for (auto& x : v) if (fscanf(job, "%llu", &x) != 1) return 2;
    Design& it = designs[d];
    it.samples = v[0]; it.stall_in = v[1]; it.stall_out = v[2]; it.rng = 88172645463325252ull + 7919 * v[3];
    it.restart_at = v[4]; it.flush_mode = v[5];
    it.input = slurp(folder + std::to_string(d) + ".in");
    for (auto& e : it.edges) {
      e.file = fopen((folder + std::to_string(d) + "." + e.name + ".bin").c_str(), "wb+");
      if (!e.file) { perror(e.name); return 2; }
#if VM_TRACE
      e.times = fopen((folder + std::to_string(d) + "." + e.name + ".time").c_str(), "wb+");
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
    FILE* f = fopen((folder + std::to_string(d) + ".done").c_str(), "wb");
    fwrite(it.done.data(), sizeof(uint64_t), it.done.size(), f);
    fclose(f);
    printf("%s{\"fault\": \"%s\", \"sent\": %llu, \"got\": %llu, ", d ? ", " : "", it.fault.c_str(),
           (unsigned long long)it.sent, (unsigned long long)it.got);
    printf("\"first_cycle\": %llu, \"first_output\": %llu, \"edges\": [", (unsigned long long)it.first_cycle,
           (unsigned long long)it.first_output);
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
