// The recurrence of mase/dataflow/schedule.py, firing by firing. Compiled once and kept; see compiled.py.
//
// Times do not depend on the order in which actors are run, so each runs as far as it can, and one that waits for a
// queue is run again when that queue has moved.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t Unbounded = int64_t(1) << 32;

struct Ring {  // times in order, of which the oldest leave
  std::vector<int64_t> slots = std::vector<int64_t>(16);
  size_t mask = 15, head = 0, tail = 0;
  size_t size() const { return tail - head; }
  int64_t at(size_t ahead) const { return slots[(head + ahead) & mask]; }
  void pop() { head++; }
  void push(int64_t time) {
    if (tail - head > mask) grow();
    slots[tail++ & mask] = time;
  }
  void grow() {
    std::vector<int64_t> wider(2 * slots.size());
    for (size_t i = 0; i < size(); i++) wider[i] = at(i);
    tail = size();
    head = 0;
    slots.swap(wider);
    mask = slots.size() - 1;
  }
};

struct Queue {
  int64_t depth = 0, free = 0;   // slots, and those of them that have not been used yet
  int32_t source = -1, sink = -1;  // actors that sleep until a slot or a token comes
  Ring visible, returned;
};

struct Act {
  int32_t action, end;
  int64_t latency;
  int32_t ahead;  // actions of the same firing that do the same before this one
};

struct Actor {
  const uint16_t* kinds;
  int64_t count, index = 0, now = 0, tensors = 0;
  int32_t waits = -1;
  bool slot = false, awake = false;
};

enum Action { Take, Free, Acquire, Publish, Enter, Leave };

// What decides all that follows: the times of actors and queues, from the latest one on.
struct State {
  std::vector<int64_t> values;
  int64_t base = 0;

  bool of(const std::vector<Actor>& actors, const std::vector<Queue>& queues, size_t most) {
    size_t total = actors.size();
    for (const Queue& queue : queues) total += queue.visible.size() + queue.returned.size();
    if (total > most) return false;
    values.clear();
    base = 0;
    for (const Actor& actor : actors) base = std::max(base, actor.now);
    for (const Actor& actor : actors) values.push_back(actor.now - base);
    for (const Queue& queue : queues) {
      values.push_back(queue.free);
      for (const Ring* ring : {&queue.visible, &queue.returned}) {
        values.push_back(int64_t(ring->size()));
        for (size_t i = 0; i < ring->size(); i++) values.push_back(ring->at(i) - base);
      }
    }
    return true;
  }
};

}  // namespace

// Runs all actors until each has finished so many tensors, or none can move. Where the state after a tensor is that
// after the tensor before, later, all that follows repeats, and nothing more is run.
//
// kinds: per actor, the kind of each firing of a tensor; starts: per kind, where its actions begin (one more at the end);
// actions: what is done; ends: to which queue, or to which outside port; latencies: of what is published.
// left: per outside output, the times of its tokens (room for all); first: the first firing that takes from outside.
// entered: per outside input, the tokens that were taken. finished, waits, slots: per actor, tensors finished, the queue
// that it waits for (-1: none), and whether for a slot. lag: cycles from one tensor to the next where all repeats, or -1.
// used: where not null, per queue the slots that are in use at once; queues are then not bounded.
extern "C" int mase_run(int32_t actors, const int64_t* counts, const uint16_t* const* kinds, const int32_t* offsets,
                        const int64_t* dwells, const int32_t* starts, const int32_t* actions, const int32_t* ends,
                        const int64_t* latencies, int32_t queues, const int64_t* depths, int64_t tensors, int32_t inputs,
                        int32_t outputs, int64_t* const* left, int64_t* first, int64_t* entered, int64_t* finished,
                        int32_t* waits, int32_t* slots, int64_t* lag, int64_t* used) {
  std::vector<Queue> queue(static_cast<size_t>(queues));
  std::vector<std::vector<int64_t>> taken(used ? queue.size() : 0), freed(taken.size());
  for (size_t q = 0; q < queue.size(); q++) queue[q].depth = queue[q].free = used ? Unbounded : depths[q];
  std::vector<int64_t> gone(static_cast<size_t>(outputs), 0);
  std::vector<Actor> actor(static_cast<size_t>(actors));
  for (size_t a = 0; a < actor.size(); a++) actor[a] = Actor{kinds[a], counts[a]};

  const size_t all = size_t(offsets[actors]);
  std::vector<Act> acts(size_t(starts[all]));
  size_t widest = 64;
  for (size_t kind = 0; kind < all; kind++)
    for (int32_t i = starts[kind]; i < starts[kind + 1]; i++) {
      int32_t ahead = 0;
      for (int32_t j = starts[kind]; j < i; j++) ahead += actions[j] == actions[i] && ends[j] == ends[i];
      acts[size_t(i)] = Act{actions[i], ends[i], latencies[i], ahead};
    }
  for (size_t a = 0; a < actor.size(); a++) widest += size_t(counts[a]);

  *first = *lag = -1;
  std::vector<int32_t> ready;
  auto wake = [&](int32_t& sleeper) {
    if (sleeper < 0) return;
    if (!actor[size_t(sleeper)].awake) {
      actor[size_t(sleeper)].awake = true;
      ready.push_back(sleeper);
    }
    sleeper = -1;
  };

  State before, after;
  bool known = false;  // whether ``before`` is the state after the tensor before
  for (int64_t goal = 1; goal <= tensors; goal++) {  // tensor by tensor: queues stay short
    for (int32_t a = actors - 1; a >= 0; a--) {
      actor[size_t(a)].awake = true;
      ready.push_back(a);
    }
    while (!ready.empty()) {
      const int32_t a = ready.back();
      ready.pop_back();
      Actor& it = actor[size_t(a)];
      it.awake = false;
      while (it.tensors < goal) {
        const int32_t kind = offsets[a] + it.kinds[it.index];
        const Act *begin = acts.data() + starts[kind], *end = acts.data() + starts[kind + 1];
        int64_t now = it.now;
        it.waits = -1;
        for (const Act* act = begin; act < end; act++) {
          if (act->action == Take) {
            Queue& q = queue[size_t(act->end)];
            if (size_t(act->ahead) >= q.visible.size()) {
              it.waits = act->end;
              it.slot = false;
              q.sink = a;
              break;
            }
            now = std::max(now, q.visible.at(size_t(act->ahead)));
          } else if (act->action == Acquire) {
            Queue& q = queue[size_t(act->end)];
            if (act->ahead < q.free) continue;
            const size_t place = size_t(act->ahead - q.free);
            if (place >= q.returned.size()) {
              it.waits = act->end;
              it.slot = true;
              q.source = a;
              break;
            }
            now = std::max(now, q.returned.at(place));
          }
        }
        if (it.waits >= 0) break;
        for (const Act* act = begin; act < end; act++) {
          switch (act->action) {
            case Take: queue[size_t(act->end)].visible.pop(); break;
            case Enter:
              if (*first < 0 || now < *first) *first = now;
              entered[act->end]++;
              break;
            case Free: {
              Queue& q = queue[size_t(act->end)];
              if (used) freed[size_t(act->end)].push_back(now + 1);
              if (q.depth < Unbounded) q.returned.push(now + 1);
              wake(q.source);
              break;
            }
            case Acquire: {
              Queue& q = queue[size_t(act->end)];
              if (used) taken[size_t(act->end)].push_back(now);
              if (q.depth >= Unbounded) break;
              if (q.free) q.free--;
              else q.returned.pop();
              break;
            }
            case Publish: {
              Queue& q = queue[size_t(act->end)];
              q.visible.push(now + act->latency);
              wake(q.sink);
              break;
            }
            default: left[act->end][gone[size_t(act->end)]++] = now + act->latency;
          }
        }
        it.now = now + dwells[kind];
        if (++it.index == it.count) {
          it.index = 0;
          it.tensors++;
        }
      }
    }
    bool stuck = false;
    for (const Actor& it : actor) stuck |= it.tensors < goal;
    if (stuck) {
      if (goal < tensors) goal = tensors - 1;  // whatever can still fire does
      continue;
    }
    if (used || goal == tensors) continue;
    const bool found = after.of(actor, queue, 4 * widest);
    if (known && found && before.values == after.values) {
      *lag = after.base - before.base;
      for (int32_t out = 0; out < outputs; out++) {
        const int64_t each = gone[size_t(out)] / goal;
        for (int64_t i = gone[size_t(out)]; i < each * tensors; i++) left[out][i] = left[out][i - each] + *lag;
      }
      for (int32_t in = 0; in < inputs; in++) entered[in] = entered[in] / goal * tensors;
      for (Actor& it : actor) it.tensors = tensors;
      break;
    }
    std::swap(before, after);
    known = found;
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
