// The recurrence of mase/dataflow/schedule.py, firing by firing. Compiled once and kept; see compiled.py.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t Unbounded = int64_t(1) << 32;

struct Fifo {  // times in order, of which the oldest leave
  std::vector<int64_t> times;
  size_t head = 0;
  bool empty() const { return head == times.size(); }
  int64_t front() const { return times[head]; }
  void push(int64_t t) { times.push_back(t); }
  void pop() {
    if (++head > 65536 && 2 * head > times.size()) {
      times.erase(times.begin(), times.begin() + std::ptrdiff_t(head));
      head = 0;
    }
  }
};

struct Queue {
  int64_t depth = 0, acquired = 0;
  Fifo visible, returned;
};

struct Actor {
  const uint16_t* kinds;
  int64_t count, index = 0, now = 0, tensors = 0;
  int32_t waits = -1;
  bool slot = false;
};

enum Action { Take, Free, Acquire, Publish, Enter, Leave };

}  // namespace

// Runs all actors until each has finished so many tensors, or none can move.
//
// kinds: per actor, the kind of each firing of a tensor; starts: per kind, where its actions begin (one more at the end);
// actions: what is done; ends: to which queue, or to which outside port; latencies: of what is published.
// left: per outside output, the times of its tokens (room for all); first: the first firing that takes from outside.
// finished, waits, slots: per actor, tensors finished, the queue that it waits for (-1: none), and whether for a slot.
// used: where not null, per queue the slots that are in use at once; queues are then not bounded.
extern "C" int mase_run(int32_t actors, const int64_t* counts, const uint16_t* const* kinds, const int32_t* offsets,
                        const int64_t* dwells, const int32_t* starts, const int32_t* actions, const int32_t* ends,
                        const int64_t* latencies, int32_t queues, const int64_t* depths, int64_t tensors, int32_t outputs,
                        int64_t* const* left, int64_t* first, int64_t* finished, int32_t* waits, int32_t* slots,
                        int64_t* used) {
  std::vector<Queue> queue(static_cast<size_t>(queues));
  std::vector<std::vector<int64_t>> taken(used ? queue.size() : 0), freed(taken.size());
  for (size_t q = 0; q < queue.size(); q++) queue[q].depth = used ? Unbounded : depths[q];
  std::vector<int64_t> gone(static_cast<size_t>(outputs), 0);
  std::vector<Actor> actor(static_cast<size_t>(actors));
  for (size_t a = 0; a < actor.size(); a++) actor[a] = Actor{kinds[a], counts[a]};
  *first = -1;
  for (int64_t goal = 1; goal <= tensors; goal++) {  // tensor by tensor: queues stay short
    bool moving = true;
    while (moving) {
      moving = false;
      for (size_t a = 0; a < actor.size(); a++) {
        Actor& it = actor[a];
        while (it.tensors < goal) {
          const int32_t kind = offsets[a] + it.kinds[it.index];
          const int32_t begin = starts[kind], end = starts[kind + 1];
          int64_t now = it.now;
          it.waits = -1;
          for (int32_t i = begin; i < end; i++) {
            if (actions[i] == Take) {
              Queue& q = queue[size_t(ends[i])];
              size_t ahead = 0;  // the same queue may be taken from more than once
              for (int32_t j = begin; j < i; j++) ahead += actions[j] == Take && ends[j] == ends[i];
              if (q.visible.head + ahead >= q.visible.times.size()) {
                it.waits = ends[i];
                it.slot = false;
                break;
              }
              now = std::max(now, q.visible.times[q.visible.head + ahead]);
            } else if (actions[i] == Acquire) {
              Queue& q = queue[size_t(ends[i])];
              if (q.depth >= Unbounded) continue;
              int64_t ahead = 0;
              for (int32_t j = begin; j < i; j++) ahead += actions[j] == Acquire && ends[j] == ends[i];
              const int64_t before = std::min(std::max(q.depth - q.acquired, int64_t(0)), ahead);  // that need no return
              if (q.acquired + ahead < q.depth) continue;
              const size_t place = q.returned.head + size_t(ahead - before);
              if (place >= q.returned.times.size()) {
                it.waits = ends[i];
                it.slot = true;
                break;
              }
              now = std::max(now, q.returned.times[place]);
            }
          }
          if (it.waits >= 0) break;
          for (int32_t i = begin; i < end; i++) {
            switch (actions[i]) {
              case Take: queue[size_t(ends[i])].visible.pop(); break;
              case Enter:
                if (*first < 0 || now < *first) *first = now;
                break;
              case Free: {
                Queue& q = queue[size_t(ends[i])];
                if (used) freed[size_t(ends[i])].push_back(now + 1);
                if (q.depth < Unbounded) q.returned.push(now + 1);
                break;
              }
              case Acquire: {
                Queue& q = queue[size_t(ends[i])];
                if (used) taken[size_t(ends[i])].push_back(now);
                if (q.depth < Unbounded && q.acquired >= q.depth) q.returned.pop();
                q.acquired++;
                break;
              }
              case Publish: queue[size_t(ends[i])].visible.push(now + latencies[i]); break;
              default: left[ends[i]][gone[size_t(ends[i])]++] = now + latencies[i];
            }
          }
          it.now = now + dwells[kind];
          if (++it.index == it.count) {
            it.index = 0;
            it.tensors++;
          }
          moving = true;
        }
      }
    }
    bool stuck = false;
    for (const Actor& it : actor) stuck |= it.tensors < goal;
    if (stuck && goal < tensors) goal = tensors - 1;  // whatever can still fire does
  }
  bool whole = true;
  for (size_t a = 0; a < actor.size(); a++) {
    finished[a] = actor[a].tensors;
    waits[a] = actor[a].waits;
    slots[a] = actor[a].slot;
    whole &= actor[a].tensors >= tensors;
  }
  for (size_t q = 0; q < taken.size(); q++) {
    size_t d = 1;
    for (size_t i = 0; i < taken[q].size(); i++)
      while (d <= i && (i - d >= freed[q].size() || freed[q][i - d] > taken[q][i])) d++;
    used[q] = int64_t(d);
  }
  return whole ? 0 : 1;
}
